"""Trains a model: python train.py CONFIG --data PHOTOS, the same as `resshift train`."""

from resshift_jax.cli import train

if __name__ == "__main__":
    train.end(train.main())
