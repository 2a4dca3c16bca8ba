#!/usr/bin/env python3
"""The command `recall restore`."""

from app.cli import script

main = script("restore")

if __name__ == "__main__":
    main()
