"""The FastAPI application under comparison: a JSON answer, and a route that takes a JSON body and gives it back."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

JSON = b'{"message":"Hello, world!"}'

app = FastAPI()


class Item(BaseModel):
    title: str
    price: float
    tags: list[str]
    text: str


ITEM = Item(title="A teapot", price=24.5, tags=["kitchen", "tea"], text="x" * 940).model_dump_json().encode()  # 1 KiB


@app.get("/")
async def hello() -> dict[str, str]:
    return {"message": "Hello, world!"}


@app.post("/items/{number}")
async def change(number: int, item: Item) -> Item:
    return item
