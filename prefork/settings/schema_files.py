"""The schema of static files: the tables of a `files` route and of the file cache, with their defaults."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from prefork.settings import kinds
from prefork.settings.table import Table

LONGEST_AGE = 1 << 31  # seconds; the most that a cache must understand (RFC 9111 §1.2.2)
Symlinks = Literal["inside", "owner", "all", "none"]


class FileCache(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The files that each worker keeps in memory or open. Sizes are in bytes."""

    memory: Annotated[int, kinds.size(0), Meta(description="Bytes of small files kept in memory, per worker.")] = (
        64 << 20
    )
    entries: Annotated[
        int, kinds.integer(0, 1 << 20), Meta(description="The number of files that are kept, per worker; 0: none.")
    ] = 16384
    open_files: Annotated[
        int, kinds.integer(0, 1 << 20), Meta(description="The number of large files that are held open, per worker.")
    ] = 256
    valid: Annotated[
        float,
        kinds.TIMEOUT,
        Meta(description="Seconds until a kept file is checked for changes; 0: with each request."),
    ] = 1.0


class Files(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route that serves the files of a directory."""

    short_form: ClassVar[str] = "root"
    root: Annotated[str, kinds.DIRECTORY, Meta(description="The directory of the files.")]
    index: Annotated[
        tuple[str, ...],
        kinds.INDEX,
        Meta(description='The file to serve for a directory, or a list of them; "": none.'),
    ] = ("index.html",)
    try_: Annotated[
        tuple[str, ...],
        kinds.TRIES,
        Meta(description="The paths to try, in order; $uri is the path of the request, below the route's."),
    ] = field(name="try", default=("$uri",))
    max_age: Annotated[
        int | None,
        kinds.integer(0, LONGEST_AGE),
        Meta(description="Seconds for which clients may cache a file; by default no max-age is sent."),
    ] = None
    cache_control: Annotated[
        dict[str, str],
        kinds.Entries(kinds.PATTERN, kinds.FIELD_TEXT),
        Meta(
            description='Cache-Control by pattern: "*.html" of a name, "/assets/*" of a path; the first match counts.'
        ),
    ] = field(default_factory=dict)
    types: Annotated[
        dict[str, str],
        kinds.Entries(kinds.FILE_TYPE, kinds.FIELD_TEXT),
        Meta(description='Content types by extension (".md") or name ("LICENSE"); "*" is for all other files.'),
    ] = field(default_factory=dict)
    precompressed: Annotated[
        bool,
        kinds.FLAG,
        Meta(description="Send the .zst, .br or .gz beside a file instead, if the client accepts it."),
    ] = False
    hidden: Annotated[
        bool, kinds.FLAG, Meta(description="Serve names that begin with a dot; .well-known is always served.")
    ] = False
    symlinks: Annotated[
        Symlinks,
        kinds.SYMLINKS,
        Meta(
            description='The symlinks to follow: "inside": those that stay inside the root; "owner": those that have '
            'the same owner as their target; "all"; "none".'
        ),
    ] = "inside"
    max_ranges: Annotated[
        int,
        kinds.integer(1, 10_000),
        Meta(description="The number of ranges in one request; beyond it the whole file is sent."),
    ] = 100
    listing: Annotated[
        bool, kinds.FLAG, Meta(description="A directory without an index is answered by a list of its files.")
    ] = False
