"""A folder as an archive, as far as no other test of backups sees it."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.media.archives import ArchiveFailed, FolderArchive, write_file


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[FolderArchive]:
    async with FolderArchive(tmp_path / "archive").opened(to_write=True) as archive:
        yield archive


def open_descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


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
    before = open_descriptors()
    async with FolderArchive(tmp_path / "archive").opened(to_write=True) as archive:
        for number in range(300):
            await write_file(archive, f"cc/{number}/2026-01-01/call/recording.json", b"1")
        assert open_descriptors() - before < 140
    assert open_descriptors() == before


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
