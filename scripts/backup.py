#!/usr/bin/env python3
"""The command `recall backup`."""

from app.cli import script

main = script("backup")

if __name__ == "__main__":
    main()
