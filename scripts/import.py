#!/usr/bin/env python3
"""The command `recall import`."""

from app.cli import script

main = script("import")

if __name__ == "__main__":
    main()
