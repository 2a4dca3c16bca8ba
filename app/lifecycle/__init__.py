"""Use cases that need several stores at once; nothing here knows HTTP."""
