"""What is done to images: high-quality images in, training pairs out."""
