"""A Flask application that uses what Flask has: `app`, and `checked`, which holds the server against PEP 3333."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

from flask import Blueprint, Flask, Response, g, redirect, request, send_file, session, stream_with_context, url_for
from werkzeug.wrappers import Response as Answer

PATIENCE = 10.0  # seconds that a view waits for another request
FILE = Path(__file__)

app = Flask(__name__, static_folder=None)
app.secret_key = "known to both workers"
app.config["MAX_CONTENT_LENGTH"] = 24 << 20
app.config["MAX_FORM_MEMORY_SIZE"] = 1 << 20

gates: dict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(0))
events: list[str] = []
barrier = threading.Barrier(4)
held: list[io.BytesIO] = []  # so that the garbage collector closes none of them


@app.get("/visits")
def visits() -> str:
    session["visits"] = session.get("visits", 0) + 1
    return f"{session['visits']} of {os.getpid()}"


@app.post("/upload")
def upload() -> dict[str, Any]:
    def describe(file: Any) -> list[Any]:
        content = file.read()
        return [file.filename, file.content_type, len(content), hashlib.sha256(content).hexdigest()]

    files = {name: [describe(file) for file in request.files.getlist(name)] for name in request.files}
    return {"form": request.form.to_dict(flat=False), "files": files}


@app.post("/echo")
def echo() -> Response:
    return Response(request.stream.read(1 << 25), mimetype="application/octet-stream")


# ---- streams


@app.get("/stream/<gate>")
def stream(gate: str) -> Response:
    def lines() -> Iterator[str]:
        try:
            for number in range(4):
                yield f"{request.args['word']} {number}\n"
                gates[gate].acquire(timeout=PATIENCE)
        finally:
            events.append(f"closed {gate}")

    return Response(stream_with_context(lines()), mimetype="text/plain")


@app.get("/endless/<gate>")
def endless(gate: str) -> Response:
    def pieces() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 8192
                gates[gate].acquire(timeout=0.005)
        finally:
            events.append(f"closed {gate}")

    return Response(pieces(), mimetype="text/plain")


@app.get("/breaks-off")
def breaks_off() -> Response:
    def pieces() -> Iterator[bytes]:
        yield b"the first"
        raise LookupError("in mid-stream")

    return Response(pieces(), mimetype="text/plain", headers={"Content-Length": "100"})


@app.post("/open/<gate>")
def open_gate(gate: str) -> str:
    gates[gate].release()
    return "open"


# ---- files


@app.get("/file")
def file() -> Response:
    return send_file(FILE, max_age=60)


@app.get("/attachment")
def attachment() -> Response:
    return send_file(FILE, as_attachment=True, download_name="Übung 1.py")


@app.get("/memory")
def memory() -> Response:
    return send_file(io.BytesIO(b"0123456789" * 1000), mimetype="text/plain", etag="memory", conditional=True)


class Noted(io.BytesIO):
    """A file that notes when it is closed."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name

    def close(self) -> None:
        if not self.closed:
            events.append(f"closed {self.name}")
        super().close()


@app.get("/noted/<name>")
def noted(name: str) -> Response:
    file = Noted(b"0123456789", name)
    held.append(file)
    return send_file(file, mimetype="text/plain", conditional=True)


# ---- errors


class Teapot(Exception):
    pass


@app.errorhandler(Teapot)
def teapot(error: Teapot) -> tuple[dict[str, str], int]:
    return {"error": str(error)}, 418


@app.errorhandler(404)
def not_found(error: Exception) -> tuple[str, int]:
    return f"no {request.path} below {request.script_root or '/'}", 404


@app.get("/teapot")
def short_and_stout() -> str:
    raise Teapot("short and stout")


@app.get("/crash/<word>")
def crash(word: str) -> str:
    raise LookupError(f"crash {word}")


# ---- contexts


@app.get("/context/<name>")
def context(name: str) -> dict[str, Any]:
    """Wait until all parties of the barrier are in here, each with a `g` of its own."""
    g.name = name
    barrier.wait(PATIENCE)
    return {"name": g.name, "path": request.path, "thread": threading.get_ident()}


@app.get("/teardown/<name>")
def teardown(name: str) -> Response:
    g.torn = name
    response = Response(name)
    response.call_on_close(lambda: events.append(f"on_close {name}"))
    return response


@app.teardown_request
def note_teardown(error: BaseException | None) -> None:
    if "torn" in g:
        events.append(f"teardown {g.torn}")


@app.get("/events")
def show_events() -> list[str]:
    return events


# ---- URLs

pages = Blueprint("pages", __name__, url_prefix="/pages", static_folder=".", static_url_path="/static")


@pages.get("/<int:number>/")
def page(number: int) -> dict[str, str]:
    static = url_for("pages.static", filename=FILE.name)
    return {"self": url_for("pages.page", number=number, _external=True), "static": static, "root": request.url_root}


@app.get("/latest")
def latest() -> Answer:
    return redirect(url_for("pages.page", number=7))


app.register_blueprint(pages)
checked = validator(app)


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """What makes a worker one in which WSGI runs on threads."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"asgi"})
