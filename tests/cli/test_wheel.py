"""The built package, as `pip wheel .` makes it, works in an environment with nothing but what it requires."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]

LOAD_EVERY_SCHEMA = """
from app.store.indices import RESOURCES, load_schema
import app.main
for resource in RESOURCES:
    print(resource, load_schema(resource)["mappings"]["dynamic"])
print(app.main.__file__)
from app.page import assets, rendering
print(*sorted(assets._ASSETS))
print(*sorted(rendering._TEMPLATES.list_templates()))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """The standard output of a program that must succeed."""
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def link_requirements(of: Distribution, site_packages: Path, extras: frozenset[str] = frozenset()) -> None:
    """Links what a distribution requires, directly or not, from this environment: pip would need a minute for it."""
    for requirement in map(Requirement, of.requires or ()):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in extras | {""}):
            required = distribution(requirement.name)
            for name in {path.parts[0] for path in required.files or ()} - {"..", "__pycache__"}:
                link = site_packages / name
                if not link.exists():
                    link.symlink_to(str(required.locate_file(name)))
            link_requirements(required, site_packages, frozenset(requirement.extras))


def names_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_wheel_works_in_an_environment_with_only_its_requirements(tmp_path: Path) -> None:
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
    site_packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
    run(*pip, "--python", environment, "install", "--no-deps", wheel, cwd=tmp_path)
    (installed,) = Distribution.discover(name="recall", path=[str(site_packages)])
    link_requirements(installed, site_packages)
    assert run(environment / "bin" / "recall", "--version", cwd=tmp_path) == f"recall {wheel.name.split('-')[1]}\n"
    python = environment / "bin" / "python"
    assert run(python, "-c", LOAD_EVERY_SCHEMA, cwd=tmp_path).splitlines() == [
        "recordings strict",
        "screen-recordings strict",
        "media-deletions strict",
        "media-claims strict",
        "recording-versions strict",
        "label-definitions strict",
        "sessions strict",
        "audit false",
        "operations false",
        str(site_packages / "app" / "main.py"),
        " ".join(names_below(ROOT / "app" / "page" / "static")),
        " ".join(names_below(ROOT / "app" / "page" / "templates")),
    ]
