"""Static files: what a route's settings make of its paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prefork.handlers.files.representation import SMALL
from prefork.http.media import Types
from tests.handlers.files.file_trees import SECRET, ask, content, field, file_cache, got, serve, unprivileged

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# ---- try


def test_the_first_name_that_leads_to_a_file_is_served(root: Path) -> None:
    write(root, index_html="app", about_html="about", docs__index_html="docs", style_css="css")
    (root / "empty").mkdir()
    files = serve(root, try_=("$uri", "$uri.html", "/index.html"))
    assert got(files, "/style.css") == (200, b"css")
    assert got(files, "/about") == (200, b"about")
    assert field(ask(files, "/about"), "Content-Type") == "text/html; charset=utf-8"
    for path in ("/", "/users/17", "/empty", "/empty/", "/missing/"):
        assert got(files, path) == (200, b"app"), path
    assert field(ask(files, "/docs"), "Location") == "/docs/"
    assert got(files, "/docs/") == (200, b"docs")


def test_a_directory_written_with_its_slash_is_the_same(root: Path) -> None:
    write(root, index_html="app", docs__index_html="docs")
    files = serve(root, try_=("$uri", "$uri/", "/index.html"))
    assert field(ask(files, "/docs"), "Location") == "/docs/"
    assert got(files, "/docs/") == (200, b"docs")
    assert got(files, "/other") == (200, b"app")


def test_where_no_name_leads_to_a_file_it_is_404(root: Path) -> None:
    files = serve(root, try_=("$uri", "/index.html"))
    assert got(files, "/x")[0] == 404


def test_a_fallback_is_no_way_to_hidden_names_and_out_of_the_root(root: Path) -> None:
    write(root, index_html="app")
    (root / ".env").write_bytes(SECRET)
    files = serve(root, try_=("$uri", "/index.html"))
    assert got(files, "/.env")[0] == 404
    assert got(files, "/../outside/secret")[0] == 404


def test_a_hidden_fallback_is_hidden_whether_it_was_given_before_or_not(root: Path) -> None:
    write(root, x_txt="x")
    (root / ".fallback.html").write_bytes(b"fallback")
    os.utime(root / ".fallback.html", (1, 1))
    files = serve(root, cache=file_cache(), try_=("$uri", "/.fallback.html"))
    for _ in range(2):
        assert got(files, "/.fallback.html")[0] == 404
        assert got(files, "/none") == (200, b"fallback")


def test_the_fallback_is_below_the_root_whatever_the_mount(root: Path) -> None:
    write(root, index_html="app", x_txt="x")
    files = serve(root, "/app", try_=("$uri", "/index.html"))
    assert got(files, "/app/x.txt") == (200, b"x")
    assert got(files, "/app/deep/link") == (200, b"app")


def test_the_path_of_the_fallback_with_a_slash_falls_back_as_any_does(root: Path) -> None:
    write(root, one_txt="app")
    files = serve(root, "/app", try_=("$uri", "/one.txt"))
    for path in ("/app/x/", "/app/one.txt/", "/app/one.txt"):
        assert got(files, path) == (200, b"app")


def test_a_file_that_appears_takes_the_place_of_the_fallback(root: Path) -> None:
    write(root, index_html="app")
    os.utime(root / "index.html", (1, 1))
    files = serve(root, try_=("$uri", "/index.html"))
    assert got(files, "/new") == (200, b"app")
    (root / "new").write_bytes(b"new")
    assert got(files, "/new") == (200, b"new")


def test_one_of_several_indexes_stands_for_a_directory(root: Path) -> None:
    files = serve(root, index=("index.html", "index.htm"))
    assert got(files, "/")[0] == 404
    write(root, index_htm="second")
    assert got(files, "/") == (200, b"second")
    write(root, index_html="first")
    assert got(files, "/") == (200, b"first")


# ---- cache_control, types, hidden


def test_the_first_pattern_that_fits_says_what_caches_may_do(root: Path) -> None:
    write(root, index_html="x", assets__app_js="x", assets__deep__logo_svg="x", assets__page_html="x", other_js="x")
    rules = {"*.html": "no-cache", "/assets/*": "max-age=31536000, immutable"}
    files = serve(root, max_age=60, cache_control=rules)
    said = {path: field(ask(files, path), "Cache-Control") for path in ("/", "/assets/app.js", "/other.js")}
    assert said == {"/": "no-cache", "/assets/app.js": "max-age=31536000, immutable", "/other.js": "max-age=60"}
    assert field(ask(files, "/assets/deep/logo.svg"), "Cache-Control") == "max-age=31536000, immutable"
    assert field(ask(files, "/assets/page.html"), "Cache-Control") == "no-cache"
    assert field(ask(files, "/other.js", if_none_match="*"), "Cache-Control") == "max-age=60"


def test_the_operators_types_come_first() -> None:
    types = Types({".md": "text/html", ".BIN": "text/plain; charset=latin-1", "LICENSE": "text/plain", "*": "text/x"})
    assert types.of(b"a.md") == types.of(b"a.MD") == "text/html; charset=utf-8"
    assert types.of(b"a.bin") == "text/plain; charset=latin-1"
    assert types.of(b"LICENSE") == "text/plain; charset=utf-8"
    assert types.of(b"a.css") == "text/css; charset=utf-8"
    assert types.of(b"unknown") == types.of(b"a.unknown") == "text/x; charset=utf-8"


def test_hidden_names_are_served_where_that_is_wanted(root: Path) -> None:
    (root / ".config").mkdir()
    (root / ".config" / "a").write_bytes(b"x")
    assert got(serve(root), "/.config/a")[0] == 404
    assert got(serve(root, hidden=True), "/.config/a") == (200, b"x")
    for path in ("/a\0b", "/.config/../../outside/secret", "/../outside/secret"):
        assert got(serve(root, hidden=True), path)[0] == 404, path


# ---- precompressed


@pytest.fixture(params=[10, SMALL + 1], ids=["small", "large"])
def site(root: Path, request: pytest.FixtureRequest) -> Path:
    for number, suffix in enumerate(("", ".gz", ".br", ".zst")):
        path = root / f"app.js{suffix}"
        path.write_bytes(suffix.encode().ljust(request.param + 10 * (4 - number), b"."))
        os.utime(path, (10**9, 10**9))
    return root


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("gzip, br", "br"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, br;q=0.5", "gzip"),
        ("gzip;q=0, br;q=0, *;q=0", None),
        ("identity, gzip;q=0.5", None),
    ],
)
def test_the_coding_that_the_client_likes_best_is_sent(site: Path, accept: str, coding: str | None) -> None:
    response = ask(serve(site, precompressed=True), "/app.js", accept_encoding=accept)
    suffix = {None: "", "gzip": ".gz", "br": ".br", "zstd": ".zst"}[coding]
    assert content(response) == (site / f"app.js{suffix}").read_bytes()
    assert field(response, "Content-Encoding") == coding
    assert field(response, "Content-Type") == "text/javascript; charset=utf-8"
    assert field(response, "Vary") == "Accept-Encoding"


def test_each_coding_has_validators_of_its_own(site: Path) -> None:
    files = serve(site, precompressed=True)
    tags = {}
    for accept in ("", "gzip", "br", "zstd"):
        response = ask(files, "/app.js", accept_encoding=accept)
        content(response)
        tags[accept] = field(response, "ETag") or ""
    assert len(set(tags.values())) == 4
    same = ask(files, "/app.js", accept_encoding="br", if_none_match=tags["br"])
    assert (same.status, field(same, "Vary")) == (304, "Accept-Encoding")
    other = ask(files, "/app.js", accept_encoding="gzip", if_none_match=tags["br"])
    assert other.status == 200
    content(other)


def test_a_range_is_of_the_encoded_bytes(site: Path) -> None:
    response = ask(serve(site, precompressed=True), "/app.js", accept_encoding="gzip", range="bytes=0-2")
    assert (response.status, content(response), field(response, "Content-Encoding")) == (206, b".gz", "gzip")


def test_of_those_liked_equally_the_smallest_is_sent(site: Path) -> None:
    (site / "app.js.gz").write_bytes(b"g")
    response = ask(serve(site, precompressed=True), "/app.js", accept_encoding="zstd, gzip")
    assert content(response) == b"g"


def test_what_is_older_than_its_original_is_of_another(site: Path) -> None:
    (site / "app.js").write_bytes(b"edited")
    response = ask(serve(site, precompressed=True), "/app.js", accept_encoding="gzip, br, zstd")
    assert content(response) == b"edited"
    assert field(response, "Vary") is None


def test_siblings_that_come_and_go_are_noticed(site: Path) -> None:
    files = serve(site, precompressed=True)
    content(ask(files, "/app.js", accept_encoding="br"))
    (site / "app.js.br").unlink()
    response = ask(files, "/app.js", accept_encoding="br")
    assert field(response, "Content-Encoding") is None
    content(response)


def test_a_sibling_leads_nowhere_that_a_request_for_it_would_not(site: Path) -> None:
    (site / "app.js.gz").unlink()
    (site / "app.js.gz").symlink_to("../outside/secret")
    response = ask(serve(site, precompressed=True), "/app.js", accept_encoding="gzip")
    assert SECRET not in content(response)


def test_without_the_setting_no_sibling_is_looked_at(site: Path) -> None:
    response = ask(serve(site), "/app.js", accept_encoding="gzip")
    content(response)
    assert field(response, "Content-Encoding") is field(response, "Vary") is None


# ---- symlinks


@pytest.fixture
def linked(root: Path) -> Path:
    write(root, real__file="inside", real__index_html="index")
    (root / "in").symlink_to("real/file")
    (root / "dir").symlink_to("real")
    (root / "out").symlink_to("../outside/secret")
    (root / "outdir").symlink_to(root.parent / "outside")
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("nothing")
    return root


@pytest.mark.parametrize(
    ("symlinks", "found"),
    [
        ("none", set()),
        ("inside", {"/in", "/dir/file"}),
        ("owner", {"/in", "/dir/file", "/out", "/outdir/secret"}),  # all of one owner
        ("all", {"/in", "/dir/file", "/out", "/outdir/secret"}),
    ],
)
def test_each_policy_follows_its_links(linked: Path, symlinks: str, found: set[str]) -> None:
    files = serve(linked, symlinks=symlinks)
    paths = ("/in", "/dir/file", "/out", "/outdir/secret", "/loop", "/dangling", "/loop/x")
    assert {path for path in paths if got(files, path)[0] == 200} == found
    assert {got(files, path)[0] for path in paths} <= {200, 404}
    assert got(files, "/real/file") == (200, b"inside")
    assert field(ask(files, "/real"), "Location") == "/real/"
    assert got(files, "/../outside/secret")[0] == 404


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_by_owner_a_link_to_what_is_anothers_leads_nowhere(linked: Path) -> None:
    (linked / "dir2").symlink_to("real")
    (linked / "chain").symlink_to("in")
    for link in ("in", "outdir", "dir2"):
        os.chown(linked / link, 65534, 65534, follow_symlinks=False)
    files = serve(linked, symlinks="owner")
    for path in ("/in", "/outdir/secret", "/dir2/file", "/dir2/", "/chain"):
        assert got(files, path)[0] == 404, path
    for path in ("/dir/file", "/out", "/real/file"):
        assert got(files, path)[0] == 200, path


@pytest.mark.parametrize("symlinks", ["none", "inside", "owner", "all"])
def test_special_files_are_404_and_never_opened(root: Path, symlinks: str) -> None:
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("fifo")
    (root / "null").symlink_to("/dev/null")
    for path in ("/fifo", "/link", "/null"):
        assert got(serve(root, symlinks=symlinks), path)[0] == 404, path


@pytest.mark.parametrize("symlinks", ["none", "inside", "owner", "all"])
def test_what_may_not_be_read_is_403_by_any_policy(tmp_path_factory: pytest.TempPathFactory, symlinks: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "file").write_bytes(b"x")
        (Path(name) / "file").chmod(0)
        Path(name).chmod(0o755)
        with unprivileged():
            assert got(serve(Path(name), symlinks=symlinks), "/file")[0] == 403
