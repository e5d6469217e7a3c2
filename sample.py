"""Restores photographs: python sample.py -i PHOTO_OR_FOLDER -o FOLDER, as `resshift restore`."""

from resshift_jax.cli.restore import end, main

if __name__ == "__main__":
    end(main())
