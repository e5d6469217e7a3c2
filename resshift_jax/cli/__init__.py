"""The commands, one file each: arguments in, an exit code out."""
