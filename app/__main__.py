"""`python -m app`: the service; with arguments it is the command `recall`."""

import sys

from app.cli import main

if __name__ == "__main__":
    main(sys.argv[1:] or ["serve"])
