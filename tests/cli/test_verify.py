"""`recall verify`: what it prints, and its exit status."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from app.recordings.package import MANIFEST
from tests.unit.test_package import MEDIA, a_package, rewritten, without

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "r.zip"
    path.write_bytes(a_package().content)
    return path


def verify(path: Path) -> subprocess.CompletedProcess[str]:
    """Without any setting: whoever has a package may check it."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    command = [sys.executable, str(ROOT / "scripts" / "verify.py"), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT, timeout=60)


def test_a_whole_package_is_told_with_what_proves_its_origin(package: Path) -> None:
    done = verify(package)
    assert (done.returncode, done.stderr) == (0, "")
    digest = sha256(a_package().manifest.encoded()).hexdigest()
    assert done.stdout.splitlines() == [
        'recording "r" of contact center "cc", exported by "ops" at "now"',
        f"SHA-256 of the manifest: {digest}",
        f"3 files of {len(MEDIA) + 12} bytes in the manifest: all are there and unchanged",
    ]


def test_each_difference_is_a_line_and_the_status_is_1(package: Path) -> None:
    content = without(package.read_bytes(), "recording.json")
    package.write_bytes(rewritten(content, lambda files: files | {"media/a.wav": b"", "more.txt": b""}))
    done = verify(package)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-4:] == [
        f"damaged: media/a.wav has 0 bytes, and the manifest says {len(MEDIA)}",
        "surplus: more.txt is not in the manifest",
        "missing: recording.json is not in the package",
        f"3 files of {len(MEDIA) + 12} bytes in the manifest: 3 differ",
    ]


def test_what_is_no_package_is_one_line_and_status_1(package: Path, tmp_path: Path) -> None:
    whole = package.read_bytes()
    for content, why in ((whole[:-1], "no whole zip file"), (without(whole, MANIFEST), f"no {MANIFEST}")):
        package.write_bytes(content)
        done = verify(package)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"{package} is no evidence package of Recall, or not a whole one: ")
        assert why in line
    for unreadable in (tmp_path / "none.zip", tmp_path):
        done = verify(unreadable)
        assert done.returncode == 1
        assert done.stderr.startswith(f"{unreadable} cannot be read: ")
