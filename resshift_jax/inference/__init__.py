"""Restoring: a model and images of any size in, restored images out."""
