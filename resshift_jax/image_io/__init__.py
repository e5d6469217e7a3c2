"""Image files: files and folders in, arrays with what belongs to them out, and back."""
