"""The mappings of the indices, by schema version. `app.store.indices` reads them from this package."""
