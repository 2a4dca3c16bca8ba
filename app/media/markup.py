"""Reads the XML of storages. An answer that is not exactly well-formed says nothing."""

import re
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

_DECLARED_ENCODING = re.compile(rb"""<\?xml\s[^>]*?\bencoding\s*=\s*["']([A-Za-z][A-Za-z0-9._-]*)["'][^>]*?\?>""")


class MalformedXml(ValueError):
    """A text is no well-formed XML, or has a document type, which no answer of a storage needs."""


def parse_xml(data: bytes) -> Element:
    """Returns the root element of a document in its declared encoding. Raises MalformedXml."""
    parser = XMLParser(target=_Builder())  # noqa: S314  # it refuses the definitions that entities need
    try:
        parser.feed(_decode(data))
        root: Element = parser.close()
    except (ParseError, ValueError, LookupError) as error:
        raise MalformedXml(str(error)) from None
    return root


def local_name(element: Element) -> str:
    """Returns the name of an element without its namespace."""
    return str(element.tag).rpartition("}")[2]


def children(element: Element, name: str) -> list[Element]:
    """Returns the children that have this name in the namespace of their parent."""
    namespace = str(element.tag).rpartition("}")[0]
    return element.findall(f"{namespace}}}{name}" if namespace else name)


def _decode(data: bytes) -> str:
    """Raises ValueError or LookupError."""
    if data.startswith((b"\xfe\xff", b"\xff\xfe")):
        return data.decode("utf-16")
    if data.startswith(b"<\0"):
        return data.decode("utf-16-le")
    if data.startswith(b"\0<"):
        return data.decode("utf-16-be")
    declared = _DECLARED_ENCODING.match(data)
    return data.decode(declared[1].decode() if declared else "utf-8-sig")


class _Builder(TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise MalformedXml("it has a document type")
