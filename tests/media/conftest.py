"""Which tests of connections run: they run on uvloop and on asyncio's event loop, over TCP and over TLS.

Without `--full`, each case of a table runs over TCP on one loop and over TLS on the other, by turns.
"""

import pytest

from tests.support.sizes import FULL


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = set() if FULL else {item for item in items if _is_left_out(item)}
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_left_out(item: pytest.Item) -> bool:
    """Whether another two of the four runs of this case are enough."""
    indices = dict(item.callspec.indices) if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    run = indices.pop("run", None)
    return run is not None and bool(indices) and (sum(indices.values()) + (run in {1, 2})) % 2 == 1
