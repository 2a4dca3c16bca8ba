"""What a WebDAV storage's answers prove about a name: which object it stands for, and that it is a file.

The absence of a sign proves nothing: every function here wants a statement about exactly the name that was asked for.
See docs/decisions/0020-proof-before-deletion.md.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote, unquote_to_bytes, urljoin, urlsplit
from xml.etree.ElementTree import Element

from app.media.http import Answer
from app.media.identity import spellings_of
from app.media.location import WebDavLocation, parse_base
from app.media.markup import MalformedXml, parse_xml
from app.media.stream import header_of, values_of
from app.media_urls import parse_url
from app.recordings.identity import fold_name
from app.settings import StorageConfig

GONE = frozenset({404, 410})

_DAV = "{DAV:}"
_STRONG_ETAG = re.compile(r'"[!#-~]*"')
_HTTP_STATUS = re.compile(r"HTTP/[0-9.]+\s+([0-9]{3})\b")
_FIRST_BYTE = re.compile(r"bytes 0-0/[0-9]+")
# What lists a folder, asks for a login or reports an error: no recording is of such a type.
_DOCUMENT = re.compile(r"text/(?:html|xml|directory)|.*[/+](?:json|xml|x?html\+xml|unix-directory)", re.IGNORECASE)


_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Unproven(Exception):
    """The storage has not shown that a name stands for exactly the object asked for; the text says why."""


@dataclass(frozen=True)
class ProvenFile:
    """A file of exactly the name asked for; `etag` is its strong validator, if the storage gives one."""

    etag: str | None = None


class Names:
    """The paths of one object: its own, those under the storage's aliases, and other cases where they do not matter."""

    def __init__(self, location: WebDavLocation) -> None:
        self._url = location.url
        spellings, self._case_sensitive = spellings_of(location.url, StorageConfig(webdav=(location.storage,)))
        self._paths = {self._path(url) for url in spellings}

    def include(self, reference: str) -> bool:
        """Returns whether a URL, absolute or not, is the object's. The host may be what a proxy makes of it."""
        reference = reference.strip()
        try:
            url = urljoin(self._url, reference)
            parts = urlsplit(url)
        except ValueError:
            return False
        # `urljoin` drops line breaks and tabs, with which this is another name.
        is_one = (
            reference.isprintable() and parts.scheme in {"http", "https"} and not parts.query and not parts.fragment
        )
        return is_one and self._path(url) in self._paths

    def _path(self, url: str) -> tuple[str, ...] | None:
        try:
            # Some servers double a slash between the parts that they are configured with.
            segments = [unquote_to_bytes(segment).decode() for segment in urlsplit(url).path.split("/")]
        except UnicodeDecodeError:
            return None
        named = [segment for segment in segments[:-1] if segment] + segments[-1:]
        return tuple(named if self._case_sensitive else map(fold_name, named))


def names_another(headers: Mapping[str, str], location: WebDavLocation) -> bool:
    """Returns whether these headers say that the server has chosen an object of another name (mod_negotiation)."""
    if "TCN" in headers or "negotiate" in (header_of(headers, "Vary") or "").lower():
        return True
    names = Names(location)
    return not all(names.include(_as_utf_8(name)) for name in values_of(headers, "Content-Location"))


def _as_utf_8(header: str) -> str:
    """A header's value, which some servers send unencoded; as it is if it is not UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def file_of_propfind(answer: Answer, location: WebDavLocation) -> ProvenFile | None:
    """Returns what a 207 to PROPFIND with depth 0 says, None if it says that there is nothing. Raises Unproven."""
    response = _only_response(answer)
    if _is_about_another(response, answer, location):
        raise Unproven("the answer to PROPFIND is about another object")
    if _status(response) in GONE:
        return None
    found = _properties(response)
    types = found.get(f"{_DAV}resourcetype", [])
    if not types:
        raise Unproven("its answer to PROPFIND does not say whether the object is a file")
    if any(len(element) or (element.text or "").strip() for element in types):
        raise Unproven("the object is a folder")
    return ProvenFile(strong_etag("".join(element.text or "" for element in found.get(f"{_DAV}getetag", []))))


def shows_no_file(answer: Answer, location: WebDavLocation) -> bool:
    """Returns whether an answer to PROPFIND with depth 0 says that no file has this name, but another may answer to it.

    Raises Unproven for an answer that cannot be read.
    """
    if answer.status != 207:
        return answer.status in GONE
    response = _only_response(answer)
    return _is_about_another(response, answer, location) or _status(response) in GONE


def _is_about_another(response: Element, answer: Answer, location: WebDavLocation) -> bool:
    return names_another(answer.headers, location) or not Names(location).include(_href(response))


def shows_folder(answer: Answer, location: WebDavLocation) -> bool:
    """Returns whether a 207 to PROPFIND with depth 0 says that this name stands for a folder."""
    try:
        response = _only_response(answer)
        name = _href(response)
    except Unproven:
        return False
    types = _properties(response).get(f"{_DAV}resourcetype", [])
    is_folder = any(element.find(f"{_DAV}collection") is not None for element in types)
    return is_folder and Names(location).include(name.rstrip("/"))


def _only_response(answer: Answer) -> Element:
    """Returns the one response of a 207. Raises Unproven."""
    if (header_of(answer.headers, "Content-Encoding") or "identity").lower() != "identity":
        raise Unproven("its answer to PROPFIND is compressed although it was asked not to")
    try:
        root = parse_xml(answer.body)
    except MalformedXml as error:
        raise Unproven(f"its answer to PROPFIND is not XML: {error}") from None
    responses = root.findall(f"{_DAV}response") if root.tag == f"{_DAV}multistatus" else []
    if len(responses) != 1:
        raise Unproven(f"its answer to PROPFIND is about {len(responses)} objects")
    return responses[0]


def _href(response: Element) -> str:
    """Returns the name in a response. Raises Unproven."""
    hrefs = response.findall(f"{_DAV}href")
    if len(hrefs) != 1 or len(hrefs[0]) or not (hrefs[0].text or "").strip():
        raise Unproven("its answer to PROPFIND does not name one object")
    return (hrefs[0].text or "").strip()


def _properties(response: Element) -> dict[str, list[Element]]:
    """Returns the properties that a response has with status 200, by their names."""
    found: dict[str, list[Element]] = {}
    for propstat in response.findall(f"{_DAV}propstat"):
        if _status(propstat) == 200:
            for element in propstat.findall(f"{_DAV}prop/*"):
                found.setdefault(str(element.tag), []).append(element)
    return found


def decoded_twice(location: WebDavLocation) -> str | None:
    """Returns the URL that a server takes this one for if it decodes names twice, None if that is the same.

    Raises Unproven if it is none below the storage's base.
    """
    if not _ESCAPE.search(unquote(location.url)):
        return None
    origin, segments = parse_url(location.url)
    _, base = parse_base(location.storage.base_url)
    names = "/".join(map(unquote, segments)).split("/")
    if names[: len(base)] != base or not {"", ".", ".."}.isdisjoint(names) or "\\" in "".join(names):
        raise Unproven("it does not answer PROPFIND, and some servers read the % in the object's name as another path")
    return f"{origin}/{'/'.join(quote(name, safe='') for name in names)}"


def file_of_get(
    answer: Answer, with_slash: Answer, location: WebDavLocation, twice_decoded: Answer | None = None
) -> ProvenFile:
    """Returns what the answers to GET of the first byte say: for the URL, with a slash at its end, and decoded twice.

    A folder may have a listing under one of them, and a server that answers every path has one page for both. A file
    has a validator, is no document, and does not exist with a slash; or its bytes, ranges and strong validator stay
    the same, for servers that ignore the slash. Where its name has a percent sign, the name without is missing, or has
    another validator. Raises Unproven.
    """
    if names_another(answer.headers, location):
        raise Unproven("the answer to GET is about another object")
    if answer.status not in {200, 206}:
        raise Unproven(f"it answers GET with {told(answer.status)}")
    if any(map(_DOCUMENT.match, values_of(answer.headers, "Content-Type"))):
        raise Unproven("it answers GET with a page or a list instead of a media file")
    etag = strong_etag(header_of(answer.headers, "ETag") or "")
    if etag is None and "Last-Modified" not in answer.headers:
        raise Unproven("its answer to GET has neither ETag nor Last-Modified, so it may be a list of a folder")
    is_same_file = (
        etag is not None
        and header_of(with_slash.headers, "ETag") == etag
        and all(_is_first_byte(one) for one in (answer, with_slash))
    )
    if with_slash.status not in GONE and not is_same_file:
        raise Unproven(f"it answers {with_slash.status} to GET with a slash at the end, so it may be a folder")
    if twice_decoded is not None and twice_decoded.status not in GONE:
        other = strong_etag(header_of(twice_decoded.headers, "ETag") or "")
        if etag is None or other is None or etag == other:
            raise Unproven("it may read the % in the object's name as the name of another object")
    return ProvenFile(etag)


def _is_first_byte(answer: Answer) -> bool:
    return answer.status == 206 and bool(_FIRST_BYTE.fullmatch(header_of(answer.headers, "Content-Range") or ""))


def told(status: int) -> str:
    """Returns a status for a message."""
    return f"{status}, a redirect, which is not followed" if status in _REDIRECTS else str(status)


def statuses_of_multistatus(body: bytes) -> list[int]:
    """Returns every status in the body of a 207, -1 for one that cannot be read. Raises MalformedXml."""
    root = parse_xml(body)
    if root.tag != f"{_DAV}multistatus":
        raise MalformedXml("it is no multistatus")
    return [_status_of(element) for element in root.iter(f"{_DAV}status")]


def strong_etag(text: str) -> str | None:
    """Returns a validator that serves for `If-Match`, None for a weak or malformed one."""
    etag = text.strip()
    return etag if _STRONG_ETAG.fullmatch(etag) else None


def _status(element: Element) -> int:
    """Returns the status that a response or propstat has as its own child, -1 without exactly one."""
    found = element.findall(f"{_DAV}status")
    return _status_of(found[0]) if len(found) == 1 else -1


def _status_of(element: Element) -> int:
    match = _HTTP_STATUS.match((element.text or "").strip())
    return int(match[1]) if match else -1
