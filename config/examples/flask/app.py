"""A guest book of sorts: a session, a form, uploads, a stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response, redirect, render_template, request, send_from_directory, session, url_for
from werkzeug.utils import secure_filename
from werkzeug.wrappers import Response as Answer

UPLOADS = Path(__file__).parent / "uploads"
UPLOADS.mkdir(exist_ok=True)

app = Flask(__name__)
# It signs the session cookies, so it is the same in all workers, and lasts over reloads. Yours is a secret.
app.secret_key = os.environ.get("SECRET_KEY", "not a secret: this is an example")


@app.get("/")
def index() -> str:
    session["visits"] = session.get("visits", 0) + 1
    uploads = sorted(path.name for path in UPLOADS.iterdir())
    return render_template("index.html", worker=os.getpid(), uploads=uploads)


@app.post("/name")
def name() -> Answer:
    session["name"] = request.form["name"]
    return redirect(url_for("index"), 303)


@app.post("/uploads")
def upload() -> Answer:
    file = request.files["file"]
    stored = secure_filename(file.filename or "") or "unnamed"
    file.save(UPLOADS / stored)
    return redirect(url_for("download", name=stored), 303)


@app.get("/uploads/<name>")
def download(name: str) -> Response:
    return send_from_directory(UPLOADS, name)  # goes out by sendfile(2)


@app.get("/squares.csv")
def squares() -> Response:
    def rows() -> Iterator[str]:
        yield "number,square\n"
        for number in range(10_000):
            yield f"{number},{number * number}\n"

    return Response(rows(), mimetype="text/csv")


@app.get("/broken")
def broken() -> str:
    return str(1 / 0)  # its traceback is in the error log


@app.errorhandler(500)
def sorry(error: Exception) -> tuple[str, int]:
    return render_template("error.html"), 500
