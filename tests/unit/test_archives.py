"""A folder as an archive, as far as no other test of backups sees it."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.media.archives import ArchiveFailed, FolderArchive, S3Archive, write_file


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[FolderArchive]:
    async with FolderArchive(tmp_path / "archive").opened(to_write=True) as archive:
        yield archive


def open_descriptors(folder: Path) -> int:
    """How many files and folders at or below a folder this process has open."""
    return sum(each.resolve().is_relative_to(folder) for each in Path("/proc/self/fd").iterdir())


async def test_a_day_that_somebody_removes_is_made_again(archive: FolderArchive, tmp_path: Path) -> None:
    for day in ("cc/_/2026-01-01", "cc/_/2026-01-02"):
        await archive.write_last({f"{day}/first/recording.json": b"1"})
        shutil.rmtree(tmp_path / "archive/cc")
        assert await archive.sizes(f"{day}/first") == {}
        await archive.write_last({f"{day}/second/recording.json": b"22", f"{day}/third/recording.json": b"333"})
        await write_file(archive, f"{day}/second/media.wav", b"4444")
        assert await archive.sizes(f"{day}/second") == {"recording.json": 2, "media.wav": 4}
        assert await archive.read(f"{day}/third/recording.json") == b"333"


async def test_a_pruned_day_is_made_again(archive: FolderArchive) -> None:
    for content in (b"1", b"22"):
        await write_file(archive, "cc/_/2026-01-01/call/recording.json", content)
        assert await archive.sizes("cc/_/2026-01-01/call") == {"recording.json": len(content)}
        await archive.remove("cc/_/2026-01-01/call/recording.json")
        await archive.prune("cc/_/2026-01-01/call")


async def test_few_folders_of_many_are_open(tmp_path: Path) -> None:
    async with FolderArchive(tmp_path / "archive").opened(to_write=True) as archive:
        for number in range(300):
            await write_file(archive, f"cc/{number}/2026-01-01/call/recording.json", b"1")
        assert 0 < open_descriptors(tmp_path) < 140
    assert open_descriptors(tmp_path) == 0


async def test_a_link_in_the_place_of_a_day_is_not_followed_though_the_day_was_open(
    archive: FolderArchive, tmp_path: Path
) -> None:
    await write_file(archive, "cc/_/2026-01-01/first/recording.json", b"1")
    shutil.rmtree(tmp_path / "archive/cc/_/2026-01-01")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "archive/cc/_/2026-01-01").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArchiveFailed):
        await write_file(archive, "cc/_/2026-01-01/second/recording.json", b"1")
    assert not list((tmp_path / "elsewhere").iterdir())


async def test_nothing_unfinished_is_left_when_files_cannot_be_placed(archive: FolderArchive, tmp_path: Path) -> None:
    await write_file(archive, "cc/_/2026-01-01", b"a file where a folder should be")
    with pytest.raises(ArchiveFailed):
        await archive.write_last(
            {"cc/_/2026-01-02/call/recording.json": b"1", "cc/_/2026-01-01/call/recording.json": b"2"}
        )
    assert not list((tmp_path / "archive/.unfinished").iterdir())


async def test_a_folder_that_may_not_be_read_is_an_entry_and_lost_and_found_is_none(
    archive: FolderArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_file(archive, "cc/_/2026-01-01/call/recording.json", b"1")
    for folder in ("lost+found", "locked"):
        (tmp_path / "archive" / folder / "inside").mkdir(parents=True)
    inner = FolderArchive._inner

    def refuse(self: FolderArchive, outer: Any, name: str, make: bool) -> Any:
        if name == "locked":
            raise PermissionError(13, "Permission denied")
        return inner(self, outer, name, make)

    monkeypatch.setattr(FolderArchive, "_inner", refuse)
    assert [tuple(entry) async for entry in archive.walk()] == [
        ("cc/_/2026-01-01/call/recording.json", 1),
        ("locked", None),
    ]


async def test_what_another_run_removes_during_a_walk_is_passed_over(archive: FolderArchive, tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        await archive.write_last({f"cc/_/2026-01-01/{name}/{file}": b"1" for file in ("a", "b")})
    found = []
    async for entry in archive.walk():
        found.append(entry.path.removeprefix("cc/_/2026-01-01/"))
        if found == ["first/a"]:
            (tmp_path / "archive/cc/_/2026-01-01/first/b").unlink()
            shutil.rmtree(tmp_path / "archive/cc/_/2026-01-01/second")
    assert found == ["first/a", "third/a", "third/b"]


class BrokenBody:
    """The body of an object, whose connection breaks in the middle of it."""

    async def __aenter__(self) -> "BrokenBody":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def read(self, _: int = -1) -> bytes:
        raise aiohttp.ClientPayloadError("Response payload is not completed")


class BrokenBucket:
    """A client of S3 whose bodies break off."""

    async def get_object(self, **_: Any) -> dict[str, Any]:
        return {"Body": BrokenBody()}


async def test_a_bucket_whose_connection_breaks_is_told_as_such() -> None:
    archive = S3Archive(BrokenBucket(), "bucket", "")
    for reading in (archive.read("path"), archive.tail("path", 10)):
        with pytest.raises(ArchiveFailed, match="payload"):
            await reading
