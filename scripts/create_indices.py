#!/usr/bin/env python3
"""The command `recall indices`."""

from app.cli import script

main = script("indices")

if __name__ == "__main__":
    main()
