"""What a process of the service imports for the recovery from killed migrations."""

import subprocess
import sys


def test_cutover_imports_neither_the_passes_nor_a_process_pool() -> None:
    code = "import sys, app.migration.cutover; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    modules = set(out.split())
    assert "app.migration.cutover" in modules
    assert not modules & {
        "app.migration.passes",
        "app.migration.run",
        "app.migration.target",
        "app.workers",
        "concurrent.futures.process",
    }
