"""The files of PyTorch and NumPy, read as data and without PyTorch."""
