"""The state of training to disk and back."""
