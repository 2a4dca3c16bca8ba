"""The web page under `/ui`: the same use cases as the API, as HTML, with a session (docs/contract.md section 13)."""
