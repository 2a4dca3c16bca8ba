#!/usr/bin/env python3
"""The command `recall verify`."""

from app.cli import script

main = script("verify")

if __name__ == "__main__":
    main()
