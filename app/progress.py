"""Shows the progress of long work on standard error: a bar on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(total: int, what: str, unit: str = "recordings") -> Iterator[Callable[[int], object]]:
    """Yields a function that takes the number of units done since the last call.

    With the unit "B" the numbers are bytes. A `total` of 0 means that it is unknown.
    """
    if sys.stderr.isatty():
        scaled = {"unit": "B", "unit_scale": True, "unit_divisor": 1024} if unit == "B" else {"unit": f" {unit}"}
        with tqdm(total=total or None, desc=what, file=sys.stderr, **scaled) as bar:
            yield bar.update
    else:
        yield _Lines(total, what, unit).advance


class _Lines:
    def __init__(self, total: int, what: str, unit: str) -> None:
        self._total = total
        self._what = what
        self._unit = unit
        self._done = 0
        self._begun = self._printed = time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = now
            print(self._line(self._done / (now - self._begun)), file=sys.stderr, flush=True)  # noqa: T201

    def _line(self, rate: float) -> str:
        if self._unit == "B":
            of_total = f" of {self._total >> 20}" if self._total else ""
            done, speed = f"{self._done >> 20}{of_total} MiB", f"{rate / 2**20:.1f} MiB/s"
        else:
            of_total = f" of {self._total}" if self._total else ""
            done, speed = f"{self._done}{of_total} {self._unit}", f"{rate:.0f}/s"
        left = f", {max(self._total - self._done, 0) / rate:.0f} s left" if rate and self._total else ""
        return f"{self._what}: {done}, {speed}{left}"
