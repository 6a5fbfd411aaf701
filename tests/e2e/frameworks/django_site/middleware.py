"""Middleware of each kind; each notes itself in a field of the response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import async_only_middleware, sync_and_async_middleware, sync_only_middleware

Respond = Callable[[HttpRequest], Any]


def noting(get_response: Callable[[HttpRequest], HttpResponseBase], field: str, value: str) -> Respond:
    def respond(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        response[field] = value
        return response

    return respond


def noting_async(get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]], field: str, value: str) -> Respond:
    async def respond(request: HttpRequest) -> HttpResponseBase:
        response = await get_response(request)
        response[field] = value
        return response

    return respond


@sync_and_async_middleware
def both(get_response: Respond) -> Respond:
    if iscoroutinefunction(get_response):
        return noting_async(get_response, "X-Both", "async")
    return noting(get_response, "X-Both", "sync")


@sync_only_middleware
def only_sync(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Respond:
    return noting(get_response, "X-Sync", "yes")


@async_only_middleware
def only_async(get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> Respond:
    return noting_async(get_response, "X-Async", "yes")
