#!/usr/bin/env python3
"""The command `recall purge`."""

from app.cli import script

main = script("purge")

if __name__ == "__main__":
    main()
