#!/usr/bin/env python3
"""The command `recall sample`."""

from app.cli import script

main = script("sample")

if __name__ == "__main__":
    main()
