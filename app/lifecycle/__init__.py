"""Use cases that need several stores. Nothing here knows HTTP."""
