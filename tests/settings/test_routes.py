"""Routes beside each other: which paths below a route another one has."""

from __future__ import annotations

import pytest

from prefork.settings.routes import is_closed, mount, nested
from prefork.settings.schema import Files, Redirect, Respond, Route

PUBLIC = Files(root="public")


@pytest.mark.parametrize(("path", "mounted"), [("/", ""), ("/a", "/a"), ("/a/", "/a"), ("/a/b/", "/a/b")])
def test_a_mount_has_no_final_slash(path: str, mounted: str) -> None:
    assert mount(path) == mounted


def test_what_another_route_answers_by_itself_is_closed() -> None:
    route = Route(path="/docs/", files=PUBLIC)
    others = [
        Route(path="/", app="a:b"),
        Route(path="/docs", host="example.com", status=True),
        Route(path="/docs/private/", respond=Respond(status=403)),
        Route(path="/docs/private/open", files=PUBLIC),
        Route(path="/docs/app", wsgi="a:b"),
        Route(path="/docs/old", redirect=Redirect(to="/")),
        Route(path="/docs/b", host="example.com", respond=Respond(status=403)),
        Route(path="/docsearch", respond=Respond(status=403)),
    ]
    paths = nested(route, [route, *others])
    closed = {path for path in ("/", "/private", "/private/x", "/app/x", "/private/open") if is_closed(path, paths)}
    assert closed == {"/private", "/private/x", "/app/x"}
    for path in ("/private/open/x", "/old", "/old/x", "/b", "/earch", "/privates", "/x/private", ""):
        assert not is_closed(path, paths), path


def test_below_the_root_every_other_route_of_the_host_is_nested() -> None:
    route = Route(host="a.org", files=PUBLIC)
    others = [Route(host="a.org", path="/x", status=True), Route(path="/y", status=True)]
    assert nested(route, [*others, route]) == [("/x", True)]
