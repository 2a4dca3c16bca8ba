"""Evidence packages: what makes them, and what checks them (docs/contract.md section 10)."""

import io
import random
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.recordings.package import MANIFEST, Checked, NotAPackage, PackageWriter, Problem, check
from app.recordings.package_manifest import ArchivedFile, Manifest, MissingFile
from tests.support.sizes import PACKAGE_PIECE

MEDIA = random.Random(7).randbytes(200_000)
FILES = {"recording.json": b'{"id": "r"}\n', "media/a.wav": MEDIA, "screen-recordings/1/media/b.mp4": b""}


class Made(NamedTuple):
    content: bytes
    manifest: Manifest


def manifest_of(files: list[ArchivedFile]) -> Manifest:
    return Manifest(
        contact_center="cc",
        region="eu",
        recording_id="r",
        created_at="now",
        created_by="ops",
        files=files,
    )


def a_package(
    files: dict[str, bytes] = FILES, change: Callable[[Manifest], Manifest] = lambda manifest: manifest
) -> Made:
    writer = PackageWriter()
    content = b"".join(writer.file(path, data) for path, data in files.items())
    manifest = change(manifest_of(writer.files))
    return Made(content + writer.finish(manifest.encoded()), manifest)


def checked(content: bytes) -> Checked:
    return check(io.BytesIO(content), lambda size: None)


def problems(content: bytes) -> list[Problem]:
    return checked(content).problems


def test_a_package_is_a_zip_of_stored_files_with_the_manifest_last() -> None:
    made = a_package()
    with zipfile.ZipFile(io.BytesIO(made.content)) as package:
        assert package.testzip() is None
        assert package.namelist() == [*FILES, MANIFEST]
        assert {info.compress_type for info in package.infolist()} == {zipfile.ZIP_STORED}
        assert {path: package.read(path) for path in FILES} == FILES
    found = checked(made.content)
    assert (found.problems, found.manifest) == ([], made.manifest)


def test_a_file_is_written_in_pieces_of_any_size_and_its_size_need_not_be_known() -> None:
    for size in (None, len(MEDIA)):
        writer = PackageWriter()
        pieces = [writer.begin("a.wav", size)]
        pieces += [writer.write(MEDIA[at : at + 7_001]) for at in range(0, len(MEDIA), 7_001)]
        # What was written is out immediately: the writer holds nothing.
        assert sum(map(len, pieces)) >= len(MEDIA)
        pieces += [writer.end(), writer.finish(manifest_of(writer.files).encoded())]
        content = b"".join(pieces)
        assert problems(content) == []
        with zipfile.ZipFile(io.BytesIO(content)) as package:
            assert package.read("a.wav") == MEDIA


class Sparse:
    """A file of many zeros, of which only the other pieces are in memory."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, bytes]] = []
        self.size = 0
        self._at = 0

    def append(self, data: bytes) -> None:
        if data.strip(b"\0"):
            self.pieces.append((self.size, data))
        self.size += len(data)

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        end = self.size if size < 0 else min(self.size, self._at + size)
        data = bytearray(max(0, end - self._at))
        for start, piece in self.pieces:
            first, last = max(start, self._at), min(start + len(piece), end)
            if first < last:
                data[first - self._at : last - self._at] = piece[first - start : last - start]
        self._at = max(end, self._at)
        return bytes(data)


@pytest.mark.parametrize("is_known", [True, False])
def test_more_than_four_gigabytes_need_no_memory(monkeypatch: pytest.MonkeyPatch, *, is_known: bool) -> None:
    """At the usual size with a limit of zip64 that is as much smaller."""
    pieces, zeros = 70, bytes(PACKAGE_PIECE)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 32 * PACKAGE_PIECE - 1)
    file, writer = Sparse(), PackageWriter()
    for path in ("a.wav", "b.wav"):
        file.append(writer.begin(path, pieces * len(zeros) if is_known else None))
        for _ in range(pieces):
            file.append(writer.write(zeros))
        file.append(writer.end())
    file.append(writer.file("recording.json", b"{}"))
    file.append(writer.finish(manifest_of(writer.files).encoded()))
    assert file.size > 140 * PACKAGE_PIECE
    assert sum(len(piece) for _, piece in file.pieces) < 10_000
    assert check(file, lambda size: None).problems == []


def without(content: bytes, path: str) -> bytes:
    """The package without one of its entries, or with one more of another name."""
    return rewritten(content, lambda files: {name: data for name, data in files.items() if name != path})


def rewritten(content: bytes, change: Callable[[dict[str, bytes]], dict[str, bytes]], **options: Any) -> bytes:
    """What somebody else's program makes of the package."""
    output = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as package, zipfile.ZipFile(output, "w", **options) as copy:
        for name, data in change({name: package.read(name) for name in package.namelist()}).items():
            copy.writestr(zipfile.ZipInfo(name), data, compress_type=options.get("compression", zipfile.ZIP_STORED))
    return output.getvalue()


def test_damaged_missing_and_surplus_files_are_each_found() -> None:
    content = a_package().content
    changed = bytes([MEDIA[0] ^ 1]) + MEDIA[1:]
    assert problems(rewritten(content, lambda files: files)) == []
    assert [p[:2] for p in problems(rewritten(content, lambda files: files | {"media/a.wav": changed}))] == [
        ("damaged", "media/a.wav")
    ]
    assert [p[:2] for p in problems(rewritten(content, lambda files: files | {"media/a.wav": MEDIA[1:]}))] == [
        ("damaged", "media/a.wav")
    ]
    assert [p[:2] for p in problems(without(content, "media/a.wav"))] == [("missing", "media/a.wav")]
    assert [p[:2] for p in problems(rewritten(content, lambda files: files | {"more.txt": b"?"}))] == [
        ("surplus", "more.txt")
    ]


@pytest.mark.parametrize("path", FILES)
def test_every_changed_byte_of_a_file_is_found(path: str) -> None:
    content = a_package().content
    at = content.index(FILES[path]) if FILES[path] else None
    for offset in range(0, len(FILES[path]), max(1, len(FILES[path]) // 20)):
        assert at is not None
        damaged = bytearray(content)
        damaged[at + offset] ^= 0x10
        assert [problem[:2] for problem in problems(bytes(damaged))] == [("damaged", path)]


def test_what_was_missing_from_the_start_is_told() -> None:
    gone = MissingFile("media/c.wav", "its storage does not have it")
    made = a_package(
        change=lambda manifest: msgspec.structs.replace(manifest, missing=[gone], left_out=["audit lines"])
    )
    found = checked(made.content)
    assert (found.problems, found.manifest.missing, found.manifest.left_out) == ([], [gone], ["audit lines"])


@pytest.mark.parametrize("kept", [0, 1, 21, 22, 100, 0.3, 0.5, 0.9, 0.999, -1])
def test_a_package_that_broke_off_is_refused(kept: float) -> None:
    content = a_package().content
    end = int(kept * len(content)) if isinstance(kept, float) else kept
    with pytest.raises(NotAPackage):
        checked(content[:end])


def test_a_package_whose_making_is_given_up_looks_like_none() -> None:
    writer = PackageWriter()
    content = writer.begin("a.wav", 100) + writer.write(b"half")
    writer.abort()
    writer.abort()
    with pytest.raises(NotAPackage):
        checked(content)


HOSTILE_NAMES = (
    *("../evil", "/etc/passwd", "a/../../b", "..\\evil", "C:evil", "a//b", "./a", "a/", "", ".hidden", "a\x00b", "ü"),
    *("media/\u202egnp.exe", "a\nb", "\x1b[2J", "x" * 201, "a b"),
)


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    """In the zip; in a manifest they are only missing."""
    placeholder = "x" * max(1, len(name.encode()))
    content = rewritten(a_package().content, lambda files: files | {placeholder: b"evil"})
    hostile = content.replace(placeholder.encode(), name.encode()) if name else without_name(content)
    with pytest.raises(NotAPackage, match=r"not allowed|no whole zip") as refusal:
        checked(hostile)
    assert str(refusal.value).isprintable()
    listed = a_package(
        change=lambda manifest: msgspec.structs.replace(manifest, files=[*manifest.files, ArchivedFile(name, 1, "00")])
    )
    (problem,) = problems(listed.content)
    assert problem.kind == "missing"
    assert problem.path.isprintable()


def without_name(content: bytes) -> bytes:
    """The entry `x` loses its name."""
    output = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as package, zipfile.ZipFile(output, "w") as copy:
        for name in package.namelist():
            info = zipfile.ZipInfo("y")
            info.filename = "" if name == "x" else name
            copy.writestr(info, package.read(name))
    return output.getvalue()


def test_two_entries_with_one_name_are_refused_whatever_their_case() -> None:
    for name in ("media/a.wav", "Media/A.wav", MANIFEST, "MANIFEST.json"):
        output = io.BytesIO(a_package().content)
        with zipfile.ZipFile(output, "a") as package:
            if name in package.namelist():
                with pytest.warns(UserWarning, match="Duplicate"):
                    package.writestr(name, b"the other")
            else:
                package.writestr(name, b"the other")
        with pytest.raises(NotAPackage, match="two entries"):
            checked(output.getvalue())


def test_zip_bombs_are_refused_before_they_are_read() -> None:
    bomb = {"media/a.wav": bytes(50_000_000)}
    with pytest.raises(NotAPackage, match="compressed"):
        checked(rewritten(a_package().content, lambda files: files | bomb, compression=zipfile.ZIP_DEFLATED))
    # Many entries that share their bytes.
    content = rewritten(a_package().content, lambda files: files | {f"{n:04}": b"x" for n in range(20)})
    overlapping = bytearray(content)
    size = struct.pack("<LL", len(MEDIA), len(MEDIA))
    at = content.rindex(b"PK\x01\x02\x14\x03", 0, content.rindex(b"0000"))
    for _ in range(20):
        overlapping[at + 20 : at + 28] = size
        at = content.find(b"PK\x01\x02", at + 4)
    with pytest.raises(NotAPackage, match="overlap"):
        checked(bytes(overlapping))


def test_what_only_some_programs_would_find_is_refused() -> None:
    """In front, behind the end, and entries that are not in the directory."""
    content = a_package().content
    hidden = PackageWriter().file("hidden.txt", b"secret")
    for changed in (hidden + content, content + b"\0" * 8, content[:-2] + b"\1\0?"):
        with pytest.raises(NotAPackage):
            checked(changed)
    for more in (["hidden.txt"], ["hidden.txt", "more.txt"]):
        output = io.BytesIO(content)
        with zipfile.ZipFile(output, "a") as package:
            for name in more:
                package.writestr(name, b"secret")
            package.filelist.remove(package.NameToInfo["hidden.txt"])
        with pytest.raises(NotAPackage, match="something is between"):
            checked(output.getvalue())


def test_a_directory_or_a_manifest_of_any_size_takes_no_memory() -> None:
    content = bytearray(a_package().content)
    at = content.rindex(b"PK\x05\x06")
    content[at + 12 : at + 16] = struct.pack("<L", 2**32 - 2)  # the size of the directory
    with pytest.raises(NotAPackage):
        checked(bytes(content))
    large = Sparse()
    writer = PackageWriter()
    large.append(writer.finish(b"[" + bytes(40 * 1024 * 1024)))
    with pytest.raises(NotAPackage, match="more than 32 MiB"):
        check(large, lambda size: None)


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"version": 1, "files": ' + b"[" * 100_000, "recursion"),
        (b"{}", "version null"),
        (b'{"version": 2}', "version 2, and this program knows version 1"),
        (b'{"version": 1}', "missing required field"),
        (b'{"version": 1, "files": [{"path": 3}]}', "Expected `str`"),
    ],
)
def test_a_manifest_that_is_none_is_refused_with_the_reason(manifest: bytes, why: str) -> None:
    with pytest.raises(NotAPackage, match=f"its {MANIFEST} cannot be read: .*{why}"):
        checked(rewritten(a_package().content, lambda files: files | {MANIFEST: manifest}))


def test_other_zips_are_no_packages() -> None:
    with pytest.raises(NotAPackage, match=f"no {MANIFEST}"):
        checked(without(a_package().content, MANIFEST))
    twice = a_package(change=lambda manifest: msgspec.structs.replace(manifest, files=manifest.files * 2))
    with pytest.raises(NotAPackage, match="twice"):
        checked(twice.content)


SMALL = a_package({"recording.json": b'{"id": "r"}', "media/a.wav": b"0123456789" * 20}).content


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_bytes_are_judged_without_another_error(changes: list[tuple[int, int]]) -> None:
    """Whatever is damaged: refused, or said, or the files are those that were packed."""
    damaged = bytearray(SMALL)
    for at, value in changes:
        damaged[at] = value
    with suppress(NotAPackage):
        found = checked(bytes(damaged))
        assert found.problems or b"0123456789" * 20 in damaged
