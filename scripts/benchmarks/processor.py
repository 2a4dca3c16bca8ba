"""Processor time: what the servers of a benchmark take, and programs that take as much."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PERIOD = 0.02


def seconds_of_servers() -> float:
    """Returns the processor time of the processes below this one, without Elasticsearch and those of low priority."""
    return sum(seconds_by_server().values())


def seconds_by_server() -> dict[int, float]:
    """Returns the same for each process, by its id."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = file.read_text().rpartition(")")
        except OSError:  # it has ended
            continue
        pid, fields = int(file.parent.name), rest.split()
        parents[pid] = int(fields[1])
        counts = int(fields[16]) <= 0 and not name.endswith("(java")
        seconds[pid] = (int(fields[11]) + int(fields[12])) / _TICKS if counts else 0.0
    return {pid: spent for pid, spent in seconds.items() if _is_below(pid, parents)}


def _is_below(pid: int, parents: dict[int, int]) -> bool:
    while pid := parents.get(pid, 0):
        if pid == os.getpid():
            return True
    return False


@contextmanager
def burning(cores: float) -> Iterator[None]:
    """Takes so many cores' time while the context is open, in short turns and with normal priority."""
    context = multiprocessing.get_context("spawn")
    count = os.cpu_count() or 1
    burners = [context.Process(target=_burn, args=(min(cores / count, 1.0),), daemon=True) for _ in range(count)]
    for burner in burners:
        burner.start()
    try:
        yield
    finally:
        for burner in burners:
            burner.terminate()
            burner.join()


def _burn(share: float) -> None:
    while True:
        begun, spent = time.monotonic(), time.process_time()
        while time.process_time() - spent < share * _PERIOD:
            pass
        time.sleep(max(0.0, begun + _PERIOD - time.monotonic()))
