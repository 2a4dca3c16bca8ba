#!/usr/bin/env python3
"""Writes docs/openapi.json, which a test compares with what the service serves."""

import json
from pathlib import Path

from app import codec
from app.api.description import describe
from app.api.docs import VERSION
from app.api.routes import ENDPOINTS

if __name__ == "__main__":
    document = json.loads(codec.encode(describe(ENDPOINTS, VERSION)))
    file = Path(__file__).parents[1] / "docs" / "openapi.json"
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
