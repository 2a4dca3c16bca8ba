"""Who the caller is, and what the caller may do and see. Nothing here knows HTTP endpoints or the store."""
