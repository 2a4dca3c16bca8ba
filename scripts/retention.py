#!/usr/bin/env python3
"""The command `recall retention`."""

from app.cli import script

main = script("retention")

if __name__ == "__main__":
    main()
