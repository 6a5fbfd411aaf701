"""Listings: which directories are listed, what of them is shown, in which order, as which type."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
import pytest

from prefork.handlers.files import listing
from prefork.handlers.files.listing import BOUNDS, Bounds, Queue
from prefork.handlers.files.static import Files
from prefork.http.message import Response
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.settings.schema import Files as FileSettings
from prefork.settings.schema import Route
from tests.handlers.exchange import exchange, hosted, meet, parse, request, routed
from tests.handlers.files.file_trees import ask, content, field, serve, unprivileged

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

HOSTILE = [
    "a b.txt",
    "100%.txt",
    "%2e%2e",
    "what?.txt",
    "a#b",
    '"><script>alert(1)</script>.html',
    "it's & <b>.txt",
    "javascript:alert(1)",
    "//evil",
    "ümlaut.txt",
    "日本語",
    "line\nbreak",
    "back\\slash",
    "-rf",
    " spaces ",
]


@pytest.fixture
def listed(root: Path) -> Files:
    return serve(root, max_age=60, listing=True)


def bounded(root: Path, bounds: Bounds) -> Files:
    return serve(root, listing=True, queue=Queue(Loop(make_poller("select")), bounds))


def entries(files: Files, path: str = "/", query: str = "") -> list[dict[str, Any]]:
    response = ask(files, path, query=query, accept="application/json")
    assert (response.status, field(response, "Content-Type")) == (200, "application/json")
    found = msgspec.json.decode(content(response))
    assert found["complete"]
    return list(found["entries"])


def names(files: Files, path: str = "/", query: str = "") -> list[str]:
    return [entry["name"] for entry in entries(files, path, query)]


def rows(response: Response) -> list[tuple[bytes, str]]:
    """Where each row of the page leads, decoded, and its text as HTML has it."""
    found = re.findall(r'<th scope="row"><a href="([^"]*)">.*?<span>(.*?)</span></a>', content(response).decode())
    return [(unquote_to_bytes(href), text.removeprefix("<bdi>").removesuffix("</bdi>")) for href, text in found]


def test_a_directory_is_listed_only_where_that_is_asked_for(root: Path, files: Files, listed: Files) -> None:
    (root / "sub").mkdir()
    assert [ask(files, path).status for path in ("/", "/sub/")] == [404, 404]
    assert [ask(listed, path).status for path in ("/", "/sub/", "/nothing/")] == [200, 200, 404]


def test_an_index_comes_before_the_listing(root: Path, listed: Files) -> None:
    (root / "index.html").write_text("the index")
    (root / "sub").mkdir()
    assert content(ask(listed, "/")) == b"the index"
    assert names(listed, "/sub/") == []


def test_without_an_index_every_directory_is_listed(root: Path) -> None:
    (root / "index.html").touch()
    assert names(serve(root, index=("",), listing=True)) == ["index.html"]


def test_a_directory_without_its_slash_is_redirected_so_that_relative_links_hold(root: Path, listed: Files) -> None:
    (root / "sub").mkdir()
    assert field(ask(listed, "/sub"), "Location") == "/sub/"


def test_a_file_with_a_slash_is_no_directory(root: Path, listed: Files) -> None:
    (root / "file").touch()
    assert ask(listed, "/file/").status == 404


def test_head_has_the_fields_of_get_and_the_length(root: Path, listed: Files) -> None:
    (root / "file").touch()
    get = parse(exchange(listed, request("/")))
    head = parse(exchange(listed, request("/", method="HEAD")), "HEAD")
    assert head.body == b""
    dateless = [[pair for pair in answer.headers.items() if pair[0] != "Date"] for answer in (get, head)]
    assert dateless[0] == dateless[1]
    assert int(head.headers["Content-Length"]) == len(get.body)


def test_other_methods_are_refused(listed: Files) -> None:
    assert ask(listed, "/", "POST").status == 405


def test_the_age_that_files_may_have_is_not_that_of_a_listing(root: Path, listed: Files) -> None:
    assert field(ask(listed, "/"), "Cache-Control") is None


def test_entries_have_name_size_and_date(root: Path, listed: Files) -> None:
    (root / "sub").mkdir()
    (root / "file.txt").write_bytes(b"x" * 1234)
    for name in ("file.txt", "sub"):
        os.utime(root / name, (0, 784111777.5))
    date = "1994-11-06T08:49:37Z"
    assert entries(listed) == [
        {"name": "sub", "url": "sub/", "type": "directory", "size": None, "modified": date},
        {"name": "file.txt", "url": "file.txt", "type": "file", "size": 1234, "modified": date},
    ]
    page = content(ask(listed, "/")).decode()
    assert '<span title="1,234 bytes">1.2 KiB</span>' in page
    assert "1994-11-06 08:49</time>" in page
    assert "<p>1 folder · 1 file · 1.2 KiB</p>" in page


def test_what_is_hidden_or_special_is_not_shown(root: Path, listed: Files) -> None:
    for name in (".git", ".well-known", "sub"):
        (root / name).mkdir()
    (root / ".env").touch()
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(root / "socket"))
        assert names(listed) == [".well-known", "sub"]


def test_symlinks_are_shown_as_what_they_lead_to_and_not_where_that_is_nothing_or_outside(
    root: Path, listed: Files
) -> None:
    (root / "file").write_bytes(b"four")
    (root / "sub").mkdir()
    for name, target in {
        "inside": "file",
        "folder": "sub",
        "out": "../outside/secret",
        "outer": "../outside",
        "dangling": "nothing",
        "circle": "circle",
    }.items():
        (root / name).symlink_to(target)
    assert [(e["name"], e["type"], e["size"]) for e in entries(listed)] == [
        ("folder", "directory", None),
        ("sub", "directory", None),
        ("file", "file", 4),
        ("inside", "file", 4),
    ]
    assert ask(listed, "/outer/").status == 404


def test_a_directory_behind_a_symlink_is_listed_where_it_is_inside(root: Path, listed: Files) -> None:
    (root / "releases" / "42").mkdir(parents=True)
    (root / "releases" / "42" / "app.js").touch()
    (root / "current").symlink_to("releases/42")
    assert names(listed, "/current/") == ["app.js"]


@pytest.mark.parametrize("path", ["/../outside/", "/sub/../../outside/", "/.git/", "/..\0/"])
def test_what_is_not_served_is_not_listed(root: Path, listed: Files, path: str) -> None:
    (root / "sub").mkdir()
    (root / ".git").mkdir()
    assert ask(listed, path).status == 404


def test_a_directory_that_may_not_be_read_is_403() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "closed").mkdir(mode=0o111)
        listed = serve(Path(name), index=("",), listing=True)
        try:
            with unprivileged():
                assert (ask(listed, "/").status, ask(listed, "/closed/").status) == (200, 403)
        finally:
            (root / "closed").chmod(0o755)


@pytest.mark.parametrize("mount", ["", "/pub"])
def test_hostile_names_are_text_and_their_links_lead_to_them(root: Path, mount: str) -> None:
    listed = serve(root, mount, listing=True)
    raw = [os.fsencode(name) for name in HOSTILE if "/" not in name] + [b"bad-\xff", b"abc\xe2\x80\xaegnp.exe"]
    for name in raw:
        with open(os.path.join(os.fsencode(root), name), "wb") as file:
            file.write(name)
    response = ask(listed, f"{mount}/")
    found = rows(response)
    assert sorted(href for href, _ in found) == sorted(raw)
    for href, text in found:
        assert content(ask(listed, mount.encode() + b"/" + href)) == href
        assert not re.search(r"[<>\"'\x00-\x1f\x7f\u202e]", text)
    page = content(response).decode()
    assert "<script" not in page
    assert all(re.fullmatch(r"[A-Za-z0-9_.~%-]+/?", href) for href in re.findall(r'row"><a href="([^"]*)"', page))


def test_a_hostile_directory_is_text_in_its_heading_and_its_path(root: Path, listed: Files) -> None:
    (root / "<b>&" / "'\"x").mkdir(parents=True)
    page = content(ask(listed, "/<b>&/'\"x/")).decode()
    assert "<title>&#x27;&quot;x - files</title>" in page
    assert '<li><a href="../"><bdi>&lt;b&gt;&amp;</bdi></a></li>' in page
    assert "<b>" not in page


def test_the_way_up_is_relative_from_wherever_one_is(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    listed = serve(root, "/pub/files", index=("",), listing=True)
    crumbs = re.compile(r'<li><a href="([^"]*)"><bdi>(.*?)</bdi>')
    assert crumbs.findall(content(ask(listed, "/pub/files/a/b/")).decode()) == [("../../", "pub/files"), ("../", "a")]
    assert crumbs.findall(content(ask(listed, "/pub/files/a//b/")).decode()) == [
        ("../../../", "pub/files"),
        ("../../", "a"),
    ]
    top = content(ask(listed, "/pub/files/")).decode()
    assert (crumbs.findall(top), "Parent folder" in top) == ([], False)


ORDERS = {
    "": ["b", "Z", "file 9", "file 10", "LICENSE"],
    "sort=name&order=desc": ["Z", "b", "LICENSE", "file 10", "file 9"],
    "sort=size": ["b", "Z", "file 10", "file 9", "LICENSE"],
    "sort=size&order=desc": ["b", "Z", "LICENSE", "file 9", "file 10"],
    "sort=modified": ["b", "Z", "LICENSE", "file 10", "file 9"],
    "sort=modified&order=desc": ["Z", "b", "file 9", "file 10", "LICENSE"],
    "sort=%00&order=up&page=-1&x": ["b", "Z", "file 9", "file 10", "LICENSE"],
}


@pytest.mark.parametrize("query", ORDERS)
def test_directories_come_first_and_names_are_in_natural_order(root: Path, listed: Files, query: str) -> None:
    for age, (name, count) in enumerate({"Z": 0, "file 9": 2, "file 10": 1, "b": 0, "LICENSE": 3}.items()):
        if count:
            (root / name).write_bytes(b"x" * count)
        else:
            (root / name).mkdir()
        os.utime(root / name, (0, 1000 - age))
    assert names(listed, query=query) == ORDERS[query]
    assert [text for _, text in rows(ask(listed, "/", query=query))] == ORDERS[query]


def test_the_heads_of_the_columns_sort_and_tell_how_it_is_sorted(root: Path, listed: Files) -> None:
    heads = re.compile(r'<th scope="col"(?: aria-sort="(\w+)")?><a href="([^"]*)">')
    assert heads.findall(content(ask(listed, "/")).decode()) == [
        ("ascending", "?sort=name&amp;order=desc"),
        ("", "?sort=size&amp;order=desc"),
        ("", "?sort=modified&amp;order=desc"),
    ]
    assert heads.findall(content(ask(listed, "/", query="sort=size&order=desc")).decode())[:2] == [
        ("", "?sort=name&amp;order=asc"),
        ("descending", "?sort=size&amp;order=asc"),
    ]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/html"),
        ("*/*", "text/html"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("application/json", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("Application/JSON;q=0.5", "application/json"),
        ("application/*", "application/json"),
        ("text/html;q=0.4, application/json;q=0.5", "application/json"),
        ("text/html;q=0.5, application/json;q=0.4", "text/html"),
        ("text/*, application/json;q=0", "text/html"),
        ("application/json;q=nonsense, text/html", "text/html"),
        ("image/png", "text/html"),
        (";;q=,,/", "text/html"),
    ],
)
def test_json_is_given_to_who_prefers_it(root: Path, listed: Files, accept: str, kind: str) -> None:
    response = ask(listed, "/", accept=accept) if accept else ask(listed, "/")
    assert (field(response, "Content-Type") or "").partition(";")[0] == kind
    assert field(response, "Vary") == "Accept"


def test_a_huge_directory_is_shown_in_pages(root: Path) -> None:
    listed = bounded(root, Bounds(page_size=4))
    for number in range(10):
        (root / f"{number}").touch()
    shown = {page: ask(listed, "/", query=f"sort=name&order=desc&page={page}") for page in ("1", "3", "9", "x")}
    assert [text for _, text in rows(shown["1"])] == ["9", "8", "7", "6"] == [text for _, text in rows(shown["x"])]
    assert [text for _, text in rows(shown["3"])] == ["1", "0"] == [text for _, text in rows(shown["9"])]
    text = content(shown["3"]).decode()
    assert 'rel="prev" href="?sort=name&amp;order=desc&amp;page=2"' in text
    assert 'rel="next"' not in text
    assert len(entries(listed)) == 10  # JSON is not for a screen


def test_a_directory_beyond_its_bound_says_that_there_is_more(root: Path) -> None:
    listed = bounded(root, Bounds(most_entries=5))
    for number in range(5):
        (root / f"{number}").touch()
    assert "the rest is not shown" not in content(ask(listed, "/")).decode()
    assert len(entries(listed)) == 5
    (root / "one more").touch()
    assert "the rest is not shown" in content(ask(listed, "/")).decode()
    found = msgspec.json.decode(content(ask(listed, "/", accept="application/json")))
    assert (len(found["entries"]), found["complete"]) == (5, False)


@pytest.mark.parametrize("links", [False, True])
def test_others_have_their_turn_while_a_large_directory_is_read(root: Path, listed: Files, links: bool) -> None:
    if links:
        for number in range(2 * listing.SLICE // listing.LINK):
            (root / f"{number}").symlink_to("/")  # which is not shown
    else:
        for number in range(2 * listing.SLICE):
            (root / f"{number}").touch()
    turns = 0

    async def handler(asked: Any) -> Response:
        nonlocal turns
        coroutine = listed(asked).__await__()
        while True:
            try:
                wait = next(coroutine)
            except StopIteration as ended:
                return ended.value
            turns += 1
            await wait

    answer = parse(exchange(handler, request("/")))
    assert (answer.status, turns) == (200, 2 if links else 3)  # two while it is read, and one while the page is made


def test_a_page_lets_no_script_run(listed: Files) -> None:
    policy = field(ask(listed, "/"), "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("when", [-(2**62), 2**62, -1])
def test_a_date_that_cannot_be_told_is_left_out(when: int) -> None:
    assert listing.utc(when) == (None if when != -1 else "1969-12-31 23:59:59")


def test_the_path_of_the_json_is_as_it_was_asked_for(root: Path, listed: Files) -> None:
    (root / "ü b").mkdir()
    found = msgspec.json.decode(content(ask(listed, "/ü b/", accept="application/json")))
    assert found == {"path": "/ü b/", "complete": True, "entries": []}


# ---- many at once


def crowd(root: Path, count: int, *targets: str, bounds: Bounds = BOUNDS, **how: Any) -> tuple[list[bytes], list[int]]:
    """What so many clients get who ask for each of the targets at once, and how many readings there were at a time."""
    (root / "huge").mkdir(exist_ok=True)
    for number in range(3 * listing.SLICE):
        (root / "huge" / f"{number}").touch()
    at_once: list[int] = []
    under_way = 0
    real = listing.Listing._read

    async def read(self: listing.Listing, names: list[bytes]) -> tuple[list[listing.Entry], bool]:
        nonlocal under_way
        under_way += 1
        at_once.append(under_way)
        try:
            return await real(self, names)
        finally:
            under_way -= 1

    handler = hosted(lambda pool: serve(root, listing=True, queue=Queue(pool.loop, bounds)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing.Listing, "_read", read)
        return meet(handler, *[request(target, "Connection: close") for target in targets] * count, **how), at_once


def test_one_listing_is_made_at_a_time(root: Path) -> None:
    answers, at_once = crowd(root, 8, "/huge/", bounds=Bounds(reading_lifetime=0.0), half_closed=False)
    assert [parse(answer).status for answer in answers] == [200] * 8
    assert at_once == [1] * 8


def test_who_waits_for_the_same_directory_shares_its_reading(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "other").mkdir()
    pages: list[bytes] = []
    real = listing.page
    monkeypatch.setattr(listing, "page", lambda *of: pages.append(real(*of)) or pages[-1])
    answers, at_once = crowd(root, 8, "/huge/", half_closed=False)
    assert [parse(answer).body for answer in answers] == pages * 8
    assert len(at_once) == 1
    orders = ("/huge/?sort=name&order=desc", "/huge/?sort=name&order=asc")
    answers, at_once = crowd(root, 4, *orders, half_closed=False)
    assert [rows_of(answer)[0] for answer in answers] == ["299", "0"] * 4
    assert len(at_once) == 1
    answers, at_once = crowd(root, 1, "/huge/", "/other/", half_closed=False)
    assert [rows_of(answer)[:1] for answer in answers] == [["0"], []]
    assert len(at_once) == 2


def test_a_query_makes_another_answer_only_by_what_it_asks_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[bytes] = []
    real = listing.page
    monkeypatch.setattr(listing, "page", lambda *of: pages.append(real(*of)) or pages[-1])
    same = ("", "?", "?q=1", "?q=2", "?page=1", "?page=9", "?sort=name", "?sort=size;x", f"?page=9&{'x' * 999}")
    answers, _ = crowd(root, 2, *(f"/huge/{query}" for query in same), half_closed=False)
    assert {parse(answer).body for answer in answers} == {pages[0]}
    assert len(pages) == 1


def test_a_page_fits_the_slashes_that_it_was_asked_for_with(root: Path) -> None:
    """Its links are relative: from `/huge//` to the root they climb by two."""
    answers, _ = crowd(root, 2, "/huge/", "/huge//", "//huge/", half_closed=False)
    climbs = [re.findall(r'<li><a href="([^"]*)">', parse(answer).body.decode())[0] for answer in answers]
    assert climbs == ["../", "../../", "../../"] * 2


def rows_of(answer: bytes) -> list[str]:
    return re.findall(r"<span><bdi>(\d+)</bdi></span>", parse(answer).body.decode())


def test_what_was_read_is_not_kept_for_who_comes_later(root: Path, listed: Files) -> None:
    (root / "one").touch()
    assert names(listed) == ["one"]
    (root / "two").touch()
    assert names(listed) == ["one", "two"]


def test_who_hangs_up_while_waiting_is_given_up(root: Path) -> None:
    answers, at_once = crowd(root, 8, "/huge/", bounds=Bounds(reading_lifetime=0.0), hang_up_after=0)
    assert answers == [b""] * 8
    assert at_once == [1]


def test_a_request_that_fails_gives_its_turn_back(root: Path) -> None:
    answers, _ = crowd(root, 2, "/missing/", "/huge/", half_closed=False)
    assert [parse(answer).status for answer in answers] == [404, 200] * 2


def test_what_a_client_sends_while_it_waits_is_answered_as_well(root: Path) -> None:
    """More than is received at once, so that some of it comes while its connection waits for a turn."""
    (root / "huge").mkdir()
    for number in range(3 * listing.SLICE):
        (root / "huge" / f"{number}").touch()
    padding = "X: " + "x" * 8000
    talk = request("/huge/") + request("/a", padding) + request("/b", padding) + request("/c", "Connection: close")
    handler = routed([Route(files=FileSettings(root=str(root), listing=True))])
    for answers in meet(handler, talk, talk, talk, half_closed=False):
        statuses, rest = [], answers
        while rest:
            answer = parse(rest)
            statuses.append(answer.status)
            rest = answer.rest
        assert statuses == [200, 404, 404, 404]
