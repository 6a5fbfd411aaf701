"""Media types of files, by their names. Owns the table, over which the operator's own types take precedence."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping

UNKNOWN = "application/octet-stream"

# These types the standard library lacks, calls by an old name in some versions, or takes for an encoding. A .tar.gz is
# the very file that the client asked for and must get as it is, so .gz is a type here and never a Content-Encoding.
# XML is application/xml, since a charset on text/xml would overrule the document's own (RFC 7303 §3).
_MORE_TYPES = {
    ".atom": "application/atom+xml",
    ".avif": "image/avif",
    ".br": "application/x-brotli",
    ".bz2": "application/x-bzip2",
    ".flac": "audio/flac",
    ".gz": "application/gzip",
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".jsonld": "application/ld+json",
    ".jxl": "image/jxl",
    ".m4a": "audio/mp4",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".opus": "audio/ogg",
    ".ogg": "audio/ogg",
    ".otf": "font/otf",
    ".rss": "application/rss+xml",
    ".svg": "image/svg+xml",
    ".svgz": "application/gzip",
    ".tgz": "application/gzip",
    ".ttf": "font/ttf",
    ".vtt": "text/vtt",
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xhtml": "application/xhtml+xml",
    ".xml": "application/xml",
    ".xsl": "application/xml",
    ".xz": "application/x-xz",
    ".zst": "application/zstd",
}


def _content_types() -> dict[bytes, str]:
    """Content-Type by extension (lower case, no dot), the same on every machine: /etc/mime.types is not read."""
    strict = mimetypes.MimeTypes(filenames=()).types_map[True]
    return {extension[1:].encode(): _with_charset(kind) for extension, kind in {**strict, **_MORE_TYPES}.items()}


def _with_charset(kind: str) -> str:
    return f"{kind}; charset=utf-8" if kind.startswith("text/") and ";" not in kind else kind


_CONTENT_TYPES = _content_types()


def content_type(name: bytes) -> str:
    _, dot, extension = name.rpartition(b".")
    return _CONTENT_TYPES.get(extension.lower(), UNKNOWN) if dot else UNKNOWN


class Types:
    """The table with the operator's `own` types: by extension (".md"), by whole name ("LICENSE"), and "*" for any name
    that is in neither table.
    """

    def __init__(self, own: Mapping[str, str]) -> None:
        kinds = {name.encode(): _with_charset(kind) for name, kind in own.items()}
        self._extensions = {name[1:].lower(): kind for name, kind in kinds.items() if name.startswith(b".")}
        self._names = {name: kind for name, kind in kinds.items() if not name.startswith(b".")}
        self._unknown = self._names.pop(b"*", UNKNOWN)

    def of(self, name: bytes) -> str:
        if name in self._names:
            return self._names[name]
        _, dot, extension = name.rpartition(b".")
        if dot and (kind := self._extensions.get(extension.lower())):
            return kind
        kind = content_type(name)
        return self._unknown if kind is UNKNOWN else kind
