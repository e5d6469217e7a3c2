"""Training: a configuration in, a trained model out."""
