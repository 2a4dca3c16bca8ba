"""The description of the API in OpenAPI 3.1 (docs/contract.md section 12).

`describe` joins what the code knows (the route table, the criteria, the errors, the roles) with what is written by hand
(`operations.py`, `schemas.py`).
"""

from app.api.description.document import describe

__all__ = ["describe"]
