"""Training data: photographs in, pairs of a low-quality and a high-quality image out."""
