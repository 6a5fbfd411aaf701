"""The FastAPI application under comparison: one JSON answer."""

from __future__ import annotations

from fastapi import FastAPI

JSON = b'{"message":"Hello, world!"}'

app = FastAPI()


@app.get("/")
async def hello() -> dict[str, str]:
    return {"message": "Hello, world!"}
