"""The built package, as `pip wheel .` makes it, works in an empty environment."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]

LOAD_EVERY_SCHEMA = """
from app.store.indices import RESOURCES, load_schema
import app.main
for resource in RESOURCES:
    print(resource, load_schema(resource)["mappings"]["dynamic"])
"""


def run(*command: str | Path, cwd: Path) -> str:
    """The standard output of a program that must succeed."""
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    source = tmp_path / "source"
    # A copy, because setuptools would put files of an earlier build into the wheel.
    for name in ("app", "es_mappings"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("recall-*.whl")
    environment = tmp_path / "environment"
    venv.create(environment)
    run(*pip, "--python", environment, "install", wheel, cwd=tmp_path)
    assert run(environment / "bin" / "recall", "--version", cwd=tmp_path) == f"recall {wheel.name.split('-')[1]}\n"
    python = environment / "bin" / "python"
    assert run(python, "-c", LOAD_EVERY_SCHEMA, cwd=tmp_path) == (
        "recordings strict\nscreen-recordings strict\nmedia-deletions strict\n"
    )
