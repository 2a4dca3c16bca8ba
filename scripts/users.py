#!/usr/bin/env python3
"""The command `recall users`."""

from app.cli import script

main = script("users")

if __name__ == "__main__":
    main()
