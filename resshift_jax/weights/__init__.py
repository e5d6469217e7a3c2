"""Weights: PyTorch files and safetensors in, parameter trees with their configuration out."""
