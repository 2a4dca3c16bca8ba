#!/usr/bin/env python3
"""The command `recall sweep`."""

from app.cli import script

main = script("sweep")

if __name__ == "__main__":
    main()
