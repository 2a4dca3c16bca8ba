"""Fixtures and hooks are in plugins, so that no test has to import a fixture."""

pytest_plugins = ["tests.support.fixtures", "tests.support.workers"]
