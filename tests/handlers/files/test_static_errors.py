"""Static files: what the file system refuses, and everything at once."""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefork.handlers.files import tree
from prefork.handlers.files.static import Files
from tests.handlers.files.file_trees import SECRET, ask, content, descriptors, got, serve, unprivileged

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


def test_what_may_not_be_read_is_403_whatever_the_conditions() -> None:
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, whose parents are closed to others
        root = Path(name)
        root.chmod(0o755)
        (root / "closed").mkdir()
        (root / "closed" / "file").write_bytes(b"x")
        (root / "file").write_bytes(b"x")
        (root / "link").symlink_to("file")
        (root / "closed").chmod(0)
        (root / "file").chmod(0)
        try:
            with unprivileged():
                for path in ("/file", "/link", "/closed/file"):
                    for method in ("GET", "HEAD"):
                        assert ask(serve(root), path, method).status == 403, path
                    assert ask(serve(root), path, if_none_match="*").status == 403, path
        finally:
            (root / "closed").chmod(0o755)


def test_a_link_out_of_the_root_is_404_even_where_it_leads_is_closed() -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "public").mkdir()
        (Path(name) / "closed").mkdir()
        (Path(name) / "closed" / "file").write_bytes(SECRET)
        (Path(name) / "public" / "link").symlink_to("../closed/file")
        (Path(name) / "closed").chmod(0)
        Path(name).chmod(0o755)
        try:
            with unprivileged():
                assert got(serve(Path(name) / "public"), "/link")[0] == 404
        finally:
            (Path(name) / "closed").chmod(0o755)


@pytest.mark.parametrize("path", ["/" + "x" * 256, "/" + "x" * 30000, "/x" * 15000, "/" + "x" * 256 + "/"])
def test_names_too_long_are_404(files: Files, path: str) -> None:
    assert got(files, path)[0] == 404


def test_without_descriptors_it_is_503_and_none_is_lost(root: Path, files: Files) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "file").write_bytes(b"x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    before, seen = descriptors(), []
    most = 50 + max(map(int, os.listdir("/dev/fd")))  # some of the next numbers may be taken
    while seen[-2:] != [200, 200] and len(seen) < most:
        spare = len(seen)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, hard))
        try:
            seen.append(ask(files, "/sub/file").status)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert descriptors() == before
    assert seen == [*[503] * (len(seen) - 2), 200, 200]
    assert len(seen) >= 4


@pytest.mark.parametrize("call", ["open", "read", "fstat"])
def test_other_errors_are_500_and_logged_with_the_target(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    (root / "a file").write_bytes(b"x")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(logging.getLogger("prefork"), "propagate", True)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, logger="prefork"):
        patch.setattr(os, call, fail)
        response = ask(files, "/a file")
    assert response.status == 500
    assert "GET /a%20file" in caplog.text
    assert "Input/output error" in caplog.text


# --- the root ---


def test_a_deploy_that_switches_the_root_is_seen_by_the_next_request(tmp_path: Path) -> None:
    for release in ("41", "42"):
        (tmp_path / release).mkdir()
        (tmp_path / release / "file").write_text(release)
        (tmp_path / release / "link").symlink_to("file")
    (tmp_path / "current").symlink_to("41")
    files = serve(tmp_path / "current")
    assert got(files, "/file") == got(files, "/link") == (200, b"41")
    (tmp_path / "next").symlink_to("42")
    os.replace(tmp_path / "next", tmp_path / "current")
    assert got(files, "/file") == got(files, "/link") == (200, b"42")
    (tmp_path / "42" / "old").symlink_to("../41/file")
    assert got(files, "/old")[0] == 404


def test_a_root_that_is_gone_is_404_until_it_is_back(root: Path, files: Files) -> None:
    (root / "file").write_bytes(b"x")
    root.rename(root.parent / "aside")
    assert got(files, "/file")[0] == got(files, "/")[0] == 404
    (root.parent / "aside").rename(root)
    assert got(files, "/file") == (200, b"x")


def test_a_relative_root_holds_when_the_application_changes_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "file").write_bytes(b"x")
    monkeypatch.chdir(root.parent)
    files = serve(Path(root.name))
    monkeypatch.chdir("/")
    assert got(files, "/file") == (200, b"x")


# --- everything at once ---


@pytest.fixture(scope="module")
def maze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose files say "inside", full of links in and out; all that is outside says SECRET."""
    base = tmp_path_factory.mktemp("maze")
    root = base / "root"
    (root / "a" / "a").mkdir(parents=True)
    for place in ("secret", "index.html", "a/secret", "a/index.html"):
        (base / place).parent.mkdir(exist_ok=True)
        (base / place).write_bytes(SECRET)
    for place in ("index.html", "a/index.html", "a/a/b", "%2e%2e"):
        (root / place).write_bytes(b"inside")
    for place, target in {
        "link": "a",
        "a/link": "../..",
        "out": "..",
        "a/out": "../../a",
        "a/up": "..",
        "top": "/",
        "b": "../secret",
        "a/b": str(base / "secret"),
        "here": ".",
    }.items():
        (root / place).symlink_to(target)
    gc.collect()  # what garbage of earlier tests has open is not to close meanwhile
    return root


SEGMENTS = ["..", ".", "", "%2e", "%2e%2e", "..\\", "a", "b", "link", "out", "up", "top", "here", "root", "secret"]


@given(segments=st.lists(st.sampled_from([*SEGMENTS, "index.html", "\0", "ü"]), max_size=8), method=st.booleans())
@settings(max_examples=1000, deadline=None)
def test_no_path_reaches_what_is_outside(maze: Path, segments: list[str], method: bool) -> None:
    before = descriptors()
    response = ask(serve(maze), "/" + "/".join(segments), "GET" if method else "HEAD")
    assert content(response) == b"inside" if response.status == 200 else response.status in (301, 404)
    assert descriptors() == before


@pytest.mark.parametrize("without_o_path", [False, True])
def test_the_maze_can_be_walked(maze: Path, monkeypatch: pytest.MonkeyPatch, without_o_path: bool) -> None:
    if without_o_path:  # as on macOS
        monkeypatch.setattr(tree, "_DIRECTORY", os.O_RDONLY | os.O_DIRECTORY)
    for path in ("/out/secret", "/a/b", "/link/out/secret", "/top/etc/passwd", "/index.html/b"):
        assert got(serve(maze), path) == (404, b""), path
    for path in ("/", "/link/", "/link/a/b", "/here/a/up/link/a/b", "/out/root/a/a/b", "/%2e%2e"):
        assert got(serve(maze), path) == (200, b"inside"), path
