"""python -m resshift_jax: the command `resshift`."""

import sys

from resshift_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
