"""`recall verify`, and `scripts/verify.py`."""

import json
import sys
from pathlib import Path

import click

from app.cli.framework import Command
from app.progress import progress
from app.recordings.package import Checked, NotAPackage, check


@click.command(
    "verify",
    cls=Command,
    epilog="It needs no service and no settings. It extracts nothing. "
    "The manifest proves that the files are those that it lists; "
    "that the manifest is Recall's own, only the audit log proves: its line has the same SHA-256.",
)
@click.argument("package", type=click.Path(path_type=Path))
def command(*, package: Path) -> None:
    """Check an evidence package: each of its files against the manifest.

    The exit status is 0 only if the package is whole, and nothing in it is damaged, missing or added.
    """
    try:
        with package.open("rb") as file, progress(package.stat().st_size, "verifying", "B") as advance:
            checked = check(file, advance)
    except OSError as error:
        sys.exit(f"{package} cannot be read: {error.strerror or error}")
    except NotAPackage as error:
        sys.exit(f"{package} is no evidence package of Recall, or not a whole one: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
    _print(checked)
    if checked.problems:
        sys.exit(1)


def _print(checked: Checked) -> None:
    manifest, problems = checked.manifest, checked.problems
    # JSON shows what could control a terminal as what it is.
    recording, contact_center, user, at = map(
        json.dumps, (manifest.recording_id, manifest.contact_center, manifest.created_by, manifest.created_at)
    )
    click.echo(f"recording {recording} of contact center {contact_center}, exported by {user} at {at}")
    click.echo(f"SHA-256 of the manifest: {checked.manifest_sha256}")
    for missing in manifest.missing:
        click.echo(f"not in the package since it was made: {json.dumps(missing.path)}: {json.dumps(missing.reason)}")
    for reason in manifest.left_out:
        click.echo(f"left out since the package was made: {json.dumps(reason)}")
    for problem in problems:
        click.echo(f"{problem.kind}: {problem.path} {problem.what}")
    size = sum(archived.size for archived in manifest.files)
    what = f"{len(manifest.files)} files of {size} bytes in the manifest"
    click.echo(f"{what}: {len(problems)} differ" if problems else f"{what}: all are there and unchanged")
