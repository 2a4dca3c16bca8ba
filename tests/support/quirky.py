"""WebDAV and S3 servers that answer deletions as real ones do, as broken ones do, and at random."""

import gzip
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.support.faults import Connection, LocalServer, Request

_CLEAN = '<?xml version="1.0"?><multistatus xmlns="DAV:">{}</multistatus>'
_FAR = "http://internal.example:8080"

# What answers a status that redirects, and where to: to another file, to the same on another host, to itself, to a
# folder, nowhere.
REDIRECTS = [f"{status} {to}" for status in (301, 302, 303, 307, 308) for to in ("other", "host", "self", "/", "")]

# Content-Locations of the file itself, and such that do not prove it.
OWN_LOCATIONS = ("absolute", "relative", "host", "encoded", "raw", "twice")
OTHER_LOCATIONS = ("other", "other case", "query", "own then other", "other then own", "double encoded", "not UTF-8")

# Answers to PROPFIND that name exactly the file, and such that do not, or cannot be read.
OWN_HREFS = (
    "host",
    "encoded",
    "prefixes",
    "utf-16",
    "utf-16 without BOM",
    "cp1252",
    "BOM",
    "relative",
    "padded",
    "comment",
)
OTHER_HREFS = (
    "gzip", "empty", "truncated", "doctype", "html", "several", "another first", "own first", "no type",
    "type is forbidden", "other name", "status in response", "double encoded", "encoded slashes", "line break",
    "element", "two hrefs", "query", "fragment", "other scheme", "other namespace", "utf-32", "deflate",
)  # fmt: skip


@dataclass
class WebDavScene:
    """A folder with files of its own, and how the server answers whatever is asked below it."""

    name: str
    files: dict[str, bytes]
    target: str
    propfind: str = "good"
    get: str = "good"
    delete: str = "good"
    honours_match: bool = False
    honours_depth: bool = False
    negotiates: bool = False
    has_etags: bool = True
    ignores_slash: bool = False
    swap: bool = False  # the target disappears once it has been shown
    busy: int = 0
    mounted: bool = True
    presence: int = 200
    location: str = ""  # the kind of its Content-Location
    is_old: bool = False  # speaks HTTP/1.0
    decodes_twice: bool = False
    requests: list[str] = field(default_factory=list)  # the paths

    def is_folder(self, path: str) -> bool:
        return any(name.startswith(f"{path.rstrip('/')}/") for name in self.files)

    def named(self, path: str) -> str | None:
        """The file that the server takes this name for."""
        if self.decodes_twice:
            path = unquote(path)
        if path in self.files:
            return path
        if self.ignores_slash and path.rstrip("/") in self.files:
            return path.rstrip("/")
        others = sorted(name for name in self.files if name.startswith(f"{path}."))
        return others[0] if self.negotiates and others and not self.is_folder(path) else None

    def redirect(self, how: str, target: str) -> dict[str, str]:
        """The headers of one of REDIRECTS."""
        other = f"/recordings/{self.name}/x/other.wav"
        to = {"other": other, "host": f"{_FAR}{target}", "self": target, "/": f"{target}/"}.get(how.partition(" ")[2])
        return {"Location": to} if to else {}

    def content_location(self, own: str) -> dict[str, str]:
        """The header of an answer that is about the file itself."""
        other = f"/recordings/{self.name}/x/other.wav"
        values = {
            "absolute": f"http://127.0.0.1{own}",
            "relative": own.rpartition("/")[2],
            "host": f"{_FAR}{own}",
            "encoded": _all_encoded(own),
            "raw": unquote(own).encode().decode("latin-1"),
            "twice": f"{own}\r\nContent-Location: {own}",
            "other": other,
            "other case": own.replace("/x/", "/X/") if "/x/" in own else other,
            "query": f"{own}?version=1",
            "own then other": f"{own}\r\nContent-Location: {other}",
            "other then own": f"{other}\r\nContent-Location: {own}",
            "double encoded": quote(_all_encoded(own)),
            "not UTF-8": f"{own[:-4]}%FC.wav",
        }
        return {"Content-Location": values[self.location]} if self.location else {}

    def headers(self, named: str, path: str) -> dict[str, str]:
        """The headers of a file that is found under this path."""
        headers = {"Content-Type": "audio/wav"}
        if self.get != "bare":
            headers["Last-Modified"] = "Fri, 17 May 2013 11:45:32 GMT"
            if self.has_etags:
                headers["ETag"] = self.etag(named)
        if self.decodes_twice or named == path.rstrip("/"):
            return headers | self.content_location(f"/recordings/{self.name}/{quote(named)}")
        if self.location == "twice":
            return headers | {"Vary": "Origin\r\nVary: negotiate"}
        return headers | {"Content-Location": quote(named.rpartition("/")[2]), "TCN": "choice", "Vary": "negotiate"}

    def etag(self, name: str) -> str:
        return f'"{abs(hash((self.name, name))):x}"'


class QuirkyWebDav(LocalServer):
    """Each scene has the folder of its name below `/recordings`."""

    def __init__(self) -> None:
        super().__init__()
        self.scenes: dict[str, WebDavScene] = {}

    async def answer(self, request: Request, connection: Connection) -> None:
        _, _, scene_name, encoded = request.target.split("/", 3)
        scene, path = self.scenes[scene_name], unquote(encoded)
        scene.requests.append(path)
        connection.is_old = scene.is_old
        if path == ".mounted":
            await connection.respond(scene.presence if scene.mounted else 404, body=b"x")
            return
        if not scene.mounted:
            await connection.respond(404)
            return
        await getattr(self, f"_{request.method.lower()}")(request, connection, scene, path)

    async def _propfind(self, request: Request, connection: Connection, scene: WebDavScene, path: str) -> None:
        named = scene.named(path)
        how = scene.propfind
        if how[:3].isdigit():
            await connection.respond(int(how[:3]), scene.redirect(how, request.target), b"<html>no</html>")
            return
        if named is None and not scene.is_folder(path):
            if how == "status in response":
                text = _CLEAN.format(
                    f"<response><href>{request.target}</href><status>HTTP/1.1 404 no</status></response>"
                )
                await connection.respond(207, {}, text.encode())
            else:
                await connection.respond(404)
            return
        href = f"/recordings/{scene.name}/{quote(named)}" if named else f"{request.target}/"
        kind = "" if named else "<collection/>"
        etag = f"<getetag>{scene.etag(named)}</getetag>" if named and scene.has_etags else ""
        headers, body = _propfind_answer(how, href, kind, etag)
        await connection.respond(207, headers, body)
        if scene.swap:
            scene.files.pop(scene.target, None)

    async def _get(self, request: Request, connection: Connection, scene: WebDavScene, path: str) -> None:
        named, how = scene.named(path), scene.get
        if how[:3].isdigit():
            await connection.respond(int(how[:3]), scene.redirect(how, request.target), b"no")
        elif named is None and scene.is_folder(path):
            await self._get_folder(connection, scene, path)
        elif how == "page":
            await connection.respond(200, {"Content-Type": "text/html", "ETag": '"page"'}, b"<html>login</html>")
        elif named is None:
            await connection.respond(404, {}, b"<html>not found</html>")
        else:
            headers = scene.headers(named, path)
            content = scene.files[named]
            if not content and "range" in request.headers:
                await connection.respond(416, {"Content-Range": "bytes */0"})
            elif how != "no ranges" and "range" in request.headers:
                headers["Content-Range"] = f"bytes 0-0/{len(content)}"
                await connection.respond(206, headers, content[:1])
            else:
                await connection.respond(200, headers, content)

    async def _get_folder(self, connection: Connection, scene: WebDavScene, path: str) -> None:
        how = scene.get
        if how == "folder redirects" and not path.endswith("/"):
            await connection.respond(301, {"Location": f"/recordings/{scene.name}/{path}/"})
        elif how == "folder is json":
            await connection.respond(200, {"Content-Type": "application/json", "ETag": '"list"'}, b"[]")
        elif how == "folder is sound":
            # A listing without a type of its own, under both names, which even has a validator.
            await connection.respond(200, {"Content-Type": "audio/wav", "ETag": '"list"'}, b"a list")
        else:
            await connection.respond(200, {"Content-Type": "text/html"}, b"<html>a list</html>")

    async def _delete(self, request: Request, connection: Connection, scene: WebDavScene, path: str) -> None:
        how = scene.delete
        if scene.busy:
            scene.busy -= 1
            await connection.respond(random.choice((409, 423, 503)))
            return
        named = scene.named(path)
        matching = request.headers.get("if-match")
        if matching and scene.honours_match and named and matching != scene.etag(named):
            await connection.respond(412)
            return
        refuses_folder = scene.honours_depth and request.headers.get("depth") == "0"
        if refuses_folder and named is None and scene.is_folder(path):
            await connection.respond(400)
            return
        if how in {"204 lie", "202 lie", "404 lie", "207 lie"}:
            await _respond_deleted(how.partition(" ")[0], connection)
            return
        if how in {*REDIRECTS, "400", "403", "500"}:
            await connection.respond(int(how[:3]), scene.redirect(how, request.target), b"no")
            return
        if how == "reset before":
            connection.reset()
            return
        gone = [named] if named else [name for name in scene.files if name.startswith(f"{path.rstrip('/')}/")]
        for name in gone:
            del scene.files[name]
        if how == "reset after":
            connection.reset()
        else:
            await _respond_deleted(how if gone or how == "303" else "404", connection)


async def _respond_deleted(how: str, connection: Connection) -> None:
    if how in {"207", "207 failed"}:
        status = "204 No Content" if how == "207" else "423 Locked"
        text = _CLEAN.format(f"<response><href>/x</href><status>HTTP/1.1 {status}</status></response>")
        await connection.respond(207, {}, text.encode())
    elif how == "204 with a body":
        await connection.start(204, {"Content-Length": "4"})
        connection.transport.write(b"done")
    elif how == "200 with 100 kB":
        await connection.respond(200, {}, b"x" * 100_000)
    elif how == "404":
        await connection.respond(404)
    else:
        await connection.respond(int(how) if how.isdigit() else 204)


def _all_encoded(path: str) -> str:
    return "".join("/" if byte == ord("/") else f"%{byte:02x}" for byte in unquote(path).encode())


def _propfind_answer(how: str, href: str, kind: str, etag: str) -> tuple[dict[str, str], bytes]:
    prop = f"<resourcetype>{kind}</resourcetype>{etag}"
    if how == "no type":
        prop = etag
    propstat = f"<propstat><prop>{prop}</prop><status>HTTP/1.1 200 OK</status></propstat>"
    if how == "type is forbidden":
        propstat = propstat.replace("200 OK", "403 Forbidden")
    other = f"<response><href>{href}.bak</href>{propstat}</response>"
    folder, _, name = href.rpartition("/")
    hrefs = {
        "host": f"{_FAR}{href}",
        "encoded": _all_encoded(href),
        "relative": name or ".",
        "padded": f"\n  {href}\n",
        "comment": f"{folder}<!-- a comment -->/{name}",
        "other name": f"{href}.bak",
        "double encoded": quote(_all_encoded(href)),
        "encoded slashes": f"{folder}%2F{name}",
        "line break": f"{folder}/\n{name}",
        "element": f"{href}<b/>.bak",
        "two hrefs": f"{href}</href><href>{href}.bak",
        "query": f"{href}?version=1",
        "fragment": f"{href}#1",
        "other scheme": f"urn:{href}",
    }
    response = f"<response><href>{hrefs.get(how, href)}</href>{propstat}</response>"
    if how == "several":
        response += response
    elif how in {"another first", "own first"}:
        response = other + response if how == "another first" else response + other
    text = _CLEAN.format(response)
    bodies: dict[str, Callable[[], bytes]] = {
        "gzip": lambda: gzip.compress(text.encode(), 1),
        "deflate": text.encode,
        "utf-16": lambda: _declared(text, "utf-16").encode("utf-16"),
        "utf-16 without BOM": lambda: _declared(text, "utf-16").encode("utf-16-be"),
        "utf-32": lambda: _declared(text, "utf-32").encode("utf-32"),
        "cp1252": lambda: _declared(text, "windows-1252").encode("cp1252"),
        "BOM": lambda: _declared(text, "utf-8").encode("utf-8-sig"),
        "prefixes": lambda: _prefixed(text),
        "other namespace": lambda: text.replace("DAV:", "DAV").encode(),
        "truncated": lambda: text.encode()[:-20],
        "empty": lambda: b"",
        "doctype": lambda: text.replace("?>", '?><!DOCTYPE multistatus [<!ENTITY e "">]>', 1).encode(),
        "html": lambda: b"<html><body>welcome</body></html>",
    }
    headers = {"Content-Type": "application/xml"}
    if how == "gzip":
        headers["Content-Encoding"] = "gzip"
    elif how == "deflate":
        headers["Content-Encoding"] = "identity\r\nContent-Encoding: deflate"
    return headers, bodies[how]() if how in bodies else text.encode()


def _declared(text: str, encoding: str) -> str:
    return text.replace("?>", f' encoding="{encoding}"?>', 1)


def _prefixed(text: str) -> bytes:
    for name in (
        "multistatus",
        "response",
        "href",
        "propstat",
        "prop>",
        "resourcetype",
        "collection",
        "getetag",
        "status>",
    ):
        text = text.replace(f"<{name}", f"<x:{name}").replace(f"</{name}", f"</x:{name}")
    return text.replace('xmlns="DAV:"', "xmlns:x='DAV:'").encode()


def webdav_scene(name: str, rng: random.Random) -> WebDavScene:
    """A scene at random. It never denies an object that is there, and what it claims to have deleted can be seen."""
    files = {"x/call.wav": b"B", "x/other.wav": b"O", "f/sub/a.wav": b"a", "f/sub/b.wav": b"b", "f.wav": b"f"}
    own = ("x/own", "x/own", "x/own", "ü 1%.wav", "x%2Fown")
    target = rng.choice(("x/call", "x/call.wav", "f/sub", "f", "x/none.wav", "x%2Fother.wav", *own))
    if target in own:
        files[target] = rng.choice((b"own", b"own", b""))
        if rng.random() < 0.5:
            files[f"{target}.wav"] = b"of another recording"
    scene = WebDavScene(
        name,
        files,
        target,
        propfind=rng.choice(
            (*["good"] * 12, "404", "405", "405", "403", "501", "500", "200", *OWN_HREFS, *OTHER_HREFS,
             *rng.choices(REDIRECTS, k=4))
        ),
        get=rng.choice(
            (*["good"] * 8, "401", "403", "405", "500", "page", "bare", "no ranges", "folder redirects",
             "folder is json", "folder is sound", *rng.choices(REDIRECTS, k=3))
        ),
        delete=rng.choice(
            (*["good"] * 5, "204 with a body", "200 with 100 kB", "207", "207 failed", "202", "400",
             "403", "500", "204 lie", "202 lie", "404 lie", "207 lie", "reset before", "reset after", "303",
             *rng.choices(REDIRECTS, k=3))
        ),
        honours_match=rng.random() < 0.5,
        honours_depth=rng.random() < 0.5,
        negotiates=rng.random() < 0.5,
        has_etags=rng.random() < 0.7,
        ignores_slash=rng.random() < 0.3,
        busy=rng.choice((0, 0, 0, 1, 2)),
        mounted=rng.random() < 0.95,
        presence=rng.choice((*[200] * 8, 302, 401)),
        location=rng.choice((*[""] * 8, *OWN_LOCATIONS, *OTHER_LOCATIONS)),
        is_old=rng.random() < 0.2,
    )  # fmt: skip
    if "%2F" in target and target not in files:
        scene.decodes_twice = rng.random() < 0.7
    if scene.delete.endswith("lie") and (scene.get[:3].isdigit() or scene.get == "page"):
        scene.get = "good"  # otherwise no client could find out
    # A file that another client deletes meanwhile, so that its name stands for another one.
    scene.swap = scene.target in files and scene.honours_match and scene.has_etags and rng.random() < 0.3
    return scene


@dataclass
class S3Scene:
    """A bucket with keys and their versions, newest last; a version that is no object is a delete marker."""

    name: str
    target: str
    objects: dict[str, list[tuple[str, bool]]]
    is_versioned: bool
    delete: str = "good"
    head: str = "good"
    listing: str = "good"

    def has(self, key: str) -> bool:
        versions = self.objects.get(key)
        return bool(versions and versions[-1][1])


class QuirkyS3(LocalServer):
    """Each scene has the bucket of its name."""

    def __init__(self) -> None:
        super().__init__()
        self.scenes: dict[str, S3Scene] = {}

    async def answer(self, request: Request, connection: Connection) -> None:
        parts = urlsplit(request.target)
        _, bucket, *path = parts.path.split("/", 2)
        scene, key = self.scenes[bucket], unquote(path[0] if path else "")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if request.method == "GET" and "versions" in query:
            await self._list(connection, scene, query)
        elif request.method == "HEAD":
            await connection.respond(int(scene.head) if scene.head.isdigit() else 200 if scene.has(key) else 404)
        else:
            await self._delete(connection, scene, key, query.get("versionId"))

    async def _list(self, connection: Connection, scene: S3Scene, query: dict[str, Any]) -> None:
        if scene.listing.isdigit():
            await _s3_error(connection, int(scene.listing), "AccessDenied")
            return
        if scene.listing in {"malformed", "empty"}:
            await connection.respond(200, {}, b"<ListVersionsResult>" if scene.listing == "malformed" else b"")
            return
        encode = quote if scene.listing == "encoded" else str
        entries = [
            f"<{kind}><Key>{encode(key)}</Key><VersionId>{version}</VersionId></{kind}>"
            for key in sorted(scene.objects)
            if key.startswith(query["prefix"])
            for version, is_object in reversed(scene.objects[key])
            for kind in ("Version" if is_object else "DeleteMarker",)
        ][: int(query["max-keys"])]
        encoding = "<EncodingType>url</EncodingType>" if scene.listing == "encoded" else ""
        body = f'<ListVersionsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{encoding}{"".join(entries)}'
        await connection.respond(200, {}, f"{body}</ListVersionsResult>".encode())

    async def _delete(self, connection: Connection, scene: S3Scene, key: str, version: str | None) -> None:
        how = scene.delete
        if how == "no bucket":
            await _s3_error(connection, 404, "NoSuchBucket")
        elif how == "page":
            await connection.respond(404, {}, b"<html><Code>NoSuchKey</Code>")
        elif how == "lie":
            await connection.respond(204)
        elif how.isdigit() and int(how) >= 202:
            await _s3_error(connection, int(how), "SomeError")
        else:
            existed = key in scene.objects
            if version is not None:
                left = [one for one in scene.objects.get(key, []) if one[0] != version]
                scene.objects[key] = left
                if not left:
                    del scene.objects[key]
            elif scene.is_versioned:
                scene.objects.setdefault(key, []).append((f"m{len(scene.objects.get(key, []))}", False))
            else:
                scene.objects.pop(key, None)
            if how == "no such key" and not existed:
                await _s3_error(connection, 404, "NoSuchKey")
            else:
                await connection.respond(200 if how == "200" else 204)


async def _s3_error(connection: Connection, status: int, code: str) -> None:
    await connection.respond(status, {}, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())


def s3_scene(name: str, rng: random.Random) -> S3Scene:
    is_versioned = rng.random() < 0.5
    target = rng.choice(("al/x.wav", "al/x.wav", "al/x", "none", "ü 1+%.wav"))
    objects = {}
    for key in ("al/x.wav", "al/x.wav2", "al/y.wav", "ü 1+%.wav", "ü 1+%.wave"):
        count = (120 if rng.random() < 0.005 else rng.choice((1, 3))) if is_versioned else 1
        objects[key] = [(f"{key[:4].encode().hex()}-{i}", not is_versioned or rng.random() < 0.8) for i in range(count)]
    return S3Scene(
        name,
        target,
        objects,
        is_versioned,
        delete=rng.choice(("good", "good", "200", "202", "403", "500", "lie", "no bucket", "page", "no such key")),
        head=rng.choice(("good", "good", "good", "500")),
        listing=rng.choice(("good", "good", "encoded", "403", "501", "malformed", "empty")),
    )
