"""Static files: what is outside the root stays outside."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from prefork.handlers.files.static import Files
from tests.handlers.files.file_trees import SECRET, ask, field, got, serve

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


@pytest.mark.parametrize(
    "path",
    [
        "/../outside/secret",
        "/..",
        "/../",
        "/sub/../../outside/secret",
        "/..\\outside\\secret",
        "/%2e%2e/outside/secret",
        "/%2e%2e%2foutside%2fsecret",
        "/....//outside/secret",
        "/file\0",
        "/\0",
        "/file\0/../../outside/secret",
        "//outside/secret",
    ],
)
def test_tricks_with_the_path_find_nothing(root: Path, files: Files, path: str) -> None:
    (root / "sub").mkdir()
    (root / "file").write_bytes(b"x")
    assert got(files, path)[0] == 404


def test_a_mount_that_was_cut_within_a_name_does_not_climb(root: Path) -> None:
    assert got(serve(root, mount="/static"), "/static../outside/secret")[0] == 404
    (root / ".env").write_bytes(b"x")
    assert got(serve(root, mount="/static"), "/static.env")[0] == 404


def test_an_absolute_path_below_the_root_is_not_the_real_one(root: Path, files: Files) -> None:
    assert got(files, f"/{root.parent}/outside/secret")[0] == 404


def test_symlinks_that_stay_inside_work(root: Path, files: Files) -> None:
    (root / "real" / "deep").mkdir(parents=True)
    (root / "real" / "deep" / "file.css").write_bytes(b"x")
    (root / "real" / "deep" / "index.html").write_bytes(b"index")
    (root / "relative").symlink_to("real/deep/file.css")
    (root / "absolute").symlink_to(root / "real" / "deep" / "file.css")
    (root / "dir").symlink_to("real")
    (root / "real" / "up").symlink_to("../real/deep")
    (root / "out-and-in").symlink_to(f"../{root.name}/real")
    (root / "chain").symlink_to("dir/up/../../relative")
    (root / "here").symlink_to(".")
    places = ["relative", "absolute", "dir/deep/file.css", "dir/up/file.css", "out-and-in/deep/file.css", "chain"]
    for place in [*places, "here/here/real/deep/file.css"]:
        assert got(files, f"/{place}") == (200, b"x"), place
    assert got(files, "/dir/up/") == (200, b"index")
    assert field(ask(files, "/dir/up"), "Location") == "/dir/up/"
    assert field(ask(files, "/here"), "Location") == "/here/"


def test_the_root_may_be_reached_through_symlinks_and_links_in_it_still_work(root: Path) -> None:
    (root / "file").write_bytes(b"x")
    (root / "link").symlink_to("file")
    (root.parent / "alias").symlink_to(root)
    (root / "through-alias").symlink_to(root.parent / "alias" / "file")
    for name in ("file", "link", "through-alias"):
        assert got(serve(root.parent / "alias"), f"/{name}") == (200, b"x"), name


def test_symlinks_that_lead_out_are_404(root: Path, files: Files) -> None:
    outside = root.parent / "outside"
    (root.parent / f"{root.name}-twin").mkdir()
    (root.parent / f"{root.name}-twin" / "secret").write_bytes(SECRET)
    (outside / "index.html").write_bytes(SECRET)
    (root / "sub").mkdir()
    (root / "absolute").symlink_to(outside / "secret")
    (root / "relative").symlink_to("../outside/secret")
    (root / "sub" / "dir").symlink_to(outside)
    (root / "relative-dir").symlink_to("../outside")
    (root / "twin").symlink_to(f"../{root.name}-twin/secret")
    (root / "chain").symlink_to("sub/dir/secret")
    (root / "top").symlink_to("/")
    (root / "parent").symlink_to("..")
    names = ["absolute", "relative", "sub/dir/secret", "sub/dir/", "sub/dir", "relative-dir/secret", "twin", "chain"]
    for name in [*names, "top", "top/etc/passwd", "parent", "parent/outside/secret", f"top/{outside}/secret"]:
        assert got(files, f"/{name}")[0] == 404, name
    assert got(files, f"/parent/{root.name}/")[0] == 404  # nothing is there; and with something, it is inside
    (root / "index.html").write_bytes(b"inside")
    assert got(files, f"/parent/{root.name}/") == (200, b"inside")


def test_a_root_that_is_the_root_of_the_file_system_serves_its_links(root: Path) -> None:
    (root / "file").write_bytes(b"x")
    (root / "link").symlink_to("file")
    assert got(serve(Path("/")), f"{root}/link") == (200, b"x")


def test_dangling_and_circular_and_endless_links_are_404(root: Path, files: Files) -> None:
    (root / "dangling").symlink_to("nothing")
    (root / "self").symlink_to("self")
    (root / "ping").symlink_to("pong")
    (root / "pong").symlink_to("ping")
    (root / "link0").touch()
    for n in range(2000):  # beyond the kernel's 40, and beyond Python's recursion limit
        (root / f"link{n + 1}").symlink_to(f"link{n}")
    for name in ("dangling", "dangling/", "self", "self/below", "ping", "link2000"):
        assert got(files, f"/{name}")[0] == 404, name
    assert got(files, "/link40")[0] == 200


def test_a_long_path_through_a_link_to_itself_costs_no_more_than_the_kernel_allows(
    root: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "here").symlink_to(".")
    monkeypatch.setattr(os.path, "realpath", lambda *_: pytest.fail("resolved without a bound"))
    assert got(files, "/here" * 6000)[0] == 404


@pytest.mark.parametrize("name", [".git/config", ".env", "sub/.htpasswd", "...", ".well-known/.x", ".well-known2/x"])
def test_hidden_files_are_404(root: Path, files: Files, name: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"x")
    assert got(files, f"/{name}")[0] == 404


def test_well_known_is_not_hidden(root: Path, files: Files) -> None:
    (root / ".well-known").mkdir()
    (root / ".well-known" / "security.txt").write_bytes(b"x")
    assert got(files, "/.well-known/security.txt") == (200, b"x")
    assert field(ask(files, "/.well-known"), "Location") == "/.well-known/"


def test_links_through_hidden_directories_work_as_kubernetes_mounts_them(root: Path, files: Files) -> None:
    (root / "..2024_05_01").mkdir()
    (root / "..2024_05_01" / "index.html").write_bytes(b"x")
    (root / "..data").symlink_to("..2024_05_01")
    (root / "index.html").symlink_to("..data/index.html")
    assert got(files, "/") == (200, b"x")
    assert got(files, "/..data/index.html")[0] == 404


def test_special_files_are_404_and_are_never_opened(root: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    (root / "link").symlink_to("fifo")
    (root / "device").symlink_to("/dev/null")
    opened: list[object] = []
    real_open = os.open

    def spy(path: Any, *rest: Any, **more: Any) -> int:
        opened.append(path)
        return real_open(path, *rest, **more)

    monkeypatch.setattr(os, "open", spy)
    for name in ("fifo", "socket", "link", "device"):
        assert got(files, f"/{name}")[0] == 404, name
    assert set(opened) == {os.fsencode(root)}
