"""From one generation of an index to the next, while everybody goes on working (docs/decisions/0013-migration.md)."""
