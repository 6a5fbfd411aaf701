"""Where modules come from: the master takes none from the directory that it is started in, its workers take all."""

from __future__ import annotations

import pytest

from tests.e2e.apps import APP, CONFIG
from tests.e2e.conftest import Serve
from tests.e2e.harness import ROOT
from tests.e2e.test_upgrade import upgrade

TRAP = "open('trapped', 'a').write(__name__)\n"
USES = f"import wsgiref\n{APP}".replace('"one"', "wsgiref.VERSION")


@pytest.mark.parametrize("safe", [{}, {"PYTHONSAFEPATH": "1"}])
def test_a_module_beside_the_application_is_the_workers_alone_through_reload_and_upgrade(
    serve: Serve, safe: dict[str, str]
) -> None:
    names = ("argparse", "locale", "gzip", "websockets", "setproctitle")
    files = {f"{name}.py": TRAP for name in names} | {"wsgiref/__init__.py": 'VERSION = "theirs"'}
    server = serve(CONFIG, {"app.py": USES, **files}, env={"PYTHONPATH": str(ROOT), **safe})
    assert server.get("/version").body == b"theirs"
    assert server.command("reload").returncode == 0
    (server.directory / "prefork").mkdir()
    (server.directory / "prefork/__init__.py").write_text(TRAP)
    server.env["PYTHONSAFEPATH"] = "1"  # for the command, which Python itself would lead there
    upgrade(server)
    assert server.get("/version").body == b"theirs"
    assert not (server.directory / "trapped").exists()
