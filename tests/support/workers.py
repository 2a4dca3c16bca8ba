"""How pytest-xdist spreads the tests over its workers (`-n 3 --dist loadgroup`), which share one Elasticsearch."""

import gc
import os
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.embedded.choose import NoContainerEngine, elasticsearch_for_development
from tests.support.memory import temporary_files_in_memory

# Of tests that run benchmarks: one looks whether the indices of any benchmark are left.
BENCHMARKS = pytest.mark.xdist_group("benchmarks")

# Of modules whose tests use `spare_node`.
SPARE_NODE = pytest.mark.xdist_group("spare node")

_TESTS = Path(__file__).parents[1]

# Modules that take a minute or longer go first, so that no worker is left alone with one of them at the end.
_LONG = (
    "cluster/test_lost_node.py",
    "embedded/test_elasticsearch_node.py",
    "races/test_protection_races.py",
    "migration/test_migrating.py",
    "api/test_search_properties.py",
    "lifecycle/test_purge.py",
    "api/test_elasticsearch_faults.py",
    "media/test_players.py",
    "cli/test_soak.py",
    "page/test_recording.py",
)

# Modules that mostly wait. Spread among the others, they leave the processors to two of three workers: with several of
# them at the same time, a processor has nothing to do.
_WAITING = (
    "server/test_protocol.py",
    "media/test_real_storages.py",
    "media/test_connections.py",
    "migration/test_blocked_writes.py",
    "server/test_memory.py",
    "api/test_authentication.py",
    "unit/test_resilience.py",
    "races/test_version_races.py",
    "migration/test_roll_out.py",
    "api/test_users.py",
    "api/test_fairness.py",
    "media/test_servers.py",
    "media/test_package.py",
)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Starts a node for all workers: they inherit its URL. It ends with the process that they are workers of."""
    # A start then takes half the processor time, and no node lives long enough for more of the compiler to pay.
    os.environ.setdefault("ES_JAVA_OPTS", "-XX:TieredStopAtLevel=1")
    if "PYTEST_XDIST_WORKER" in os.environ or session.config.getoption("dist", "no") == "no":
        return
    shared = ExitStack()
    session.config.add_cleanup(shared.close)
    try:
        with temporary_files_in_memory():
            os.environ["RECALL_ELASTICSEARCH_URL"] = shared.enter_context(elasticsearch_for_development())
    except NoContainerEngine:
        return  # each test that needs it says so


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    """Keeps each module with one worker, for its fixtures, except for tests that name a group of their own.

    Sorts the modules last: pytest brings those together that share a parametrized fixture.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(_module(item)))
    yield
    lost = [module for module in (*_LONG, *_WAITING) if not (_TESTS / module).is_file()]
    assert not lost, f"there are no such modules of tests: {lost}"
    modules = dict.fromkeys(map(_module, items))
    busy = dict.fromkeys(module for module in (*_LONG, *modules) if module in modules and module not in _WAITING)
    waiting = [module for module in _WAITING if module in modules]
    place = {module: n / len(part) for part in (busy, waiting) for n, module in enumerate(part)}
    items.sort(key=lambda item: place[_module(item)])


def _module(item: pytest.Item) -> str:
    return item.path.relative_to(_TESTS).as_posix()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fails if pytest-xdist cannot see the groups, as with a version of pytest that it does not know.

    The garbage collector need not look at modules and tests again and again: they stay.
    """
    gc.collect()
    gc.freeze()
    if session.config.getoption("loadgroup", default=False):
        assert all("@" in item.nodeid.rpartition("]")[2] for item in session.items), "the groups of tests are lost"


@pytest.hookimpl(wrapper=True)
def pytest_report_from_serializable() -> Generator[None, Any, Any]:
    """Takes the group from the name of a test that a worker reports, by which `--last-failed` would not find it."""
    report = yield
    if isinstance(report, pytest.TestReport) and report.nodeid.rfind("@") > report.nodeid.rfind("]"):
        report.nodeid = report.nodeid.rpartition("@")[0]
    return report
