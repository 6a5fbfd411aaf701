"""Middleware of each kind; each notes itself in a field of the response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import async_only_middleware, sync_and_async_middleware, sync_only_middleware

Respond = Callable[[HttpRequest], Any]


@sync_and_async_middleware
def both(get_response: Respond) -> Respond:
    if iscoroutinefunction(get_response):

        async def respond_async(request: HttpRequest) -> HttpResponseBase:
            response = await get_response(request)
            response["X-Both"] = "async"
            return response

        return respond_async

    def respond(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        response["X-Both"] = "sync"
        return response

    return respond


@sync_only_middleware
def only_sync(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Respond:
    def respond(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        response["X-Sync"] = "yes"
        return response

    return respond


@async_only_middleware
def only_async(get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> Respond:
    async def respond(request: HttpRequest) -> HttpResponseBase:
        response = await get_response(request)
        response["X-Async"] = "yes"
        return response

    return respond
