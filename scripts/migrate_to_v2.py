#!/usr/bin/env python3
"""The command `recall migrate`."""

from app.cli import script

main = script("migrate")

if __name__ == "__main__":
    main()
