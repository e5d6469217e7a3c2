"""Where training images come from: names of sets in, batches of crops out."""
