"""An ASGI middleware that knows the protocol: whatever passes it in either direction is held against the specification.

What breaks it raises AssertionError where it happens, and is appended to `complaints`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SCOPE = {
    "type": str,
    "asgi": dict,
    "http_version": str,
    "method": str,
    "scheme": str,
    "path": str,
    "raw_path": bytes,
    "query_string": bytes,
    "root_path": str,
    "headers": list,
    "client": (tuple, type(None)),
    "server": (tuple, type(None)),
    "state": dict,
    "extensions": dict,
}


class Validator:
    """Wraps `application`; checks HTTP and lifespan scopes, and what goes to and fro in them."""

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self.application = application
        self.complaints: list[str] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        conversation = {"http": _Http, "lifespan": _Lifespan}.get(scope["type"])
        if conversation is None:
            await self.application(scope, receive, send)
            return
        checked = conversation(self, scope)

        async def checked_receive() -> Message:
            message = await receive()
            checked.received(message)
            return message

        async def checked_send(message: Message) -> None:
            await send(message)
            checked.sent(message)

        await self.application(scope, checked_receive, checked_send)

    def check(self, holds: bool, complaint: str) -> None:
        if not holds:
            self.complaints.append(complaint)
            raise AssertionError(complaint)


class _Http:
    def __init__(self, validator: Validator, scope: Message) -> None:
        self.check = validator.check
        self.body_ended = self.disconnected = False
        self.stage = "start"
        for key, kind in SCOPE.items():
            self.check(isinstance(scope.get(key), kind), f"scope[{key!r}] is {scope.get(key)!r}")
        self.check(scope["asgi"]["version"] == "3.0", "not ASGI 3")
        self.check(scope["method"] == scope["method"].upper(), "the method is not upper case")
        self.check(scope["path"].startswith(("/", "*")), f"the path {scope['path']!r}")
        self.check(b"?" not in scope["raw_path"], "raw_path has the query")
        self.check(scope["path"].startswith(scope["root_path"]), "the path does not begin with root_path")
        for name, value in scope["headers"]:
            self.check(type(name) is bytes and type(value) is bytes, f"the field {name!r} is not bytes")
            self.check(name == name.lower() and not name.startswith(b":"), f"the field name {name!r}")

    def received(self, message: Message) -> None:
        if message["type"] == "http.request":
            self.check(not self.body_ended, "http.request after the end of the body")
            self.check(not self.disconnected, "http.request after http.disconnect")
            self.check(type(message["body"]) is bytes, "a body that is not bytes")
            self.check(type(message["more_body"]) is bool, "more_body is not a bool")
            self.check(bool(message["body"]) or not message["more_body"], "an empty piece in mid-body")
            self.body_ended = not message["more_body"]
        else:
            self.check(message == {"type": "http.disconnect"}, f"received {message!r}")
            self.disconnected = True

    def sent(self, message: Message) -> None:
        """What `send` has let pass."""
        kind, stage = message["type"], self.stage
        allowed = {"start": {"http.response.start"}, "body": {"http.response.body", "http.response.pathsend"}}
        self.check(kind in allowed.get(stage, {"http.response.body"}), f"{kind!r} was accepted at {stage}")
        self.check(stage != "complete", f"{kind!r} was accepted after the response")
        if kind == "http.response.start":
            self.stage = "body"
        else:
            self.stage = "streaming" if message.get("more_body") else "complete"


class _Lifespan:
    def __init__(self, validator: Validator, scope: Message) -> None:
        self.check = validator.check
        self.check(isinstance(scope["state"], dict), "no state")
        self.check(set(scope) == {"type", "asgi", "state"}, f"a lifespan scope of {set(scope)}")
        self.seen: list[str] = []

    def received(self, message: Message) -> None:
        self.seen.append(message["type"])
        allowed = (["lifespan.startup"], ["lifespan.startup", "done", "lifespan.shutdown"])
        self.check(self.seen in allowed, f"received {self.seen}")

    def sent(self, message: Message) -> None:
        self.seen.append("done")
