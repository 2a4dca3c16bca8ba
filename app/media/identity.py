"""Which names stand for the same media object: for the question whether a recording still needs it.

Other URLs of a storage (`aliases`) and its view of letter case (`case_sensitive`) are only for this question. Requests
go to the URL that was posted. See docs/decisions/0020-proof-before-deletion.md.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from app.media.location import parse_base
from app.media_urls import AmbiguousUrl, parse_url
from app.recordings.identity import fold_name, media_object_keys, media_url
from app.settings import StorageConfig, WebDavConfig

_Url = tuple[str, tuple[str, ...]]  # an origin, and decoded path segments


def same_object_keys(descriptor: Mapping[str, Any], configured: StorageConfig) -> set[str]:
    """Returns the digests under which `mediaIdentities` may hold the object of a descriptor.

    A folded digest matches every spelling. It is asked for where spellings may be one object: always in S3, and in
    storages that ignore case. Exact digests find documents from before there were folded ones.
    """
    if descriptor["storage"] == "awsS3":
        return set(media_object_keys(descriptor))
    spellings, case_sensitive = spellings_of(media_url(descriptor), configured)
    keys = set()
    for url in spellings:
        exact, folded = media_object_keys({"storage": "webDAV", "path": url})
        keys |= {exact} if case_sensitive else {exact, folded}
    return keys


def claim_keys(descriptor: Mapping[str, Any], configured: StorageConfig) -> set[str]:
    """Returns the folded digests of an object, one for each name of its storage.

    A recording that refers to the object under any spelling has one of them.
    """
    if descriptor["storage"] == "awsS3":
        return {media_object_keys(descriptor)[1]}
    spellings, _ = spellings_of(media_url(descriptor), configured)
    return {media_object_keys({"storage": "webDAV", "path": url})[1] for url in spellings}


def spellings_of(url: str, configured: StorageConfig) -> tuple[list[str], bool]:
    """Returns a URL and the same path under all other names of its storages; and whether letter case matters there."""
    try:
        origin, segments = parse_url(url)
    except AmbiguousUrl:  # such a URL is never requested
        return [url], True
    found: dict[_Url, None] = {(origin, tuple(segments)): None}
    case_sensitive = True
    # The names of one storage may lie in another's, so one round may find what the next one needs.
    for _ in range(len(configured.webdav) + 1):
        before = list(found)
        for storage in configured.webdav:
            for one in before:
                renamed = dict.fromkeys(_renamed(one, storage))
                case_sensitive = case_sensitive and (storage.case_sensitive or not renamed)
                found |= renamed
        if len(found) == len(before):
            break
    return [f"{origin}/{'/'.join(quote(name, safe='') for name in path)}" for origin, path in found], case_sensitive


def _renamed(url: _Url, storage: WebDavConfig) -> Iterator[_Url]:
    """Yields the URL under each name of a storage, nothing if it is not below one of them."""

    def fold(path: Iterable[str]) -> list[str]:
        return [name if storage.case_sensitive else fold_name(name) for name in path]

    names = [parse_base(name) for name in (storage.base_url, *storage.aliases)]
    origin, path = url
    for base_origin, base in names:
        if origin == base_origin and len(path) > len(base) and fold(path[: len(base)]) == fold(base):
            yield from ((other, (*other_base, *path[len(base) :])) for other, other_base in names)
