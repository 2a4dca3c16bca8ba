#!/usr/bin/env python3
"""The command `recall reindex`."""

from app.cli import script

main = script("reindex")

if __name__ == "__main__":
    main()
