#!/usr/bin/env python3
"""The command `recall sessions`."""

from app.cli import script

main = script("sessions")

if __name__ == "__main__":
    main()
