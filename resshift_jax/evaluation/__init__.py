"""How good restored images are: pairs of images in, figures out."""
