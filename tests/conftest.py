"""The fixtures of all tests are in a plugin, so that no test has to import one."""

pytest_plugins = ["tests.support.fixtures"]
