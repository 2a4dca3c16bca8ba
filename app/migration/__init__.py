"""Migrations: copying an index into a new one and moving the alias, while the service keeps working."""
