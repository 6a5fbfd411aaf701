"""The status: the master's figures about itself and its workers. Owns the answer to the command `status`, for programs
and for `prefork status` (status_table.py).

The figures of a worker come from the scoreboard, from the system, and from the worker's own answer.
"""

from __future__ import annotations

import os
from typing import Any

import psutil

from prefork import __version__
from prefork.observe.metrics import snapshot
from prefork.process.messages import Account, encodable
from prefork.process.pool.children import Children
from prefork.process.pool.generation import Generation
from prefork.settings.wording import counted
from prefork.shared.scoreboard import Board, State

Figures = dict[str, Any]

NOTHING = Account()


async def describe(
    generation: Generation, children: Children, scoreboard: Board, started: float, last_reload: Figures | None
) -> Figures:
    """The status as a JSON object. Times are Unix seconds, `memory` is the resident set size in bytes, and `cpu` is in
    seconds, used so far.

    `deaths` counts the workers of this generation that died without having been asked to leave, and those that could
    not boot to replace them. `next_attempt` is the time of the next attempt to replace one, None while none is due.

    `longest` is the oldest request that a worker has under way. It is None where there is none, and where the worker
    does not answer. A thread of the worker answers, even while the worker's loop is stuck.
    """
    serving = {row.pid for row in scoreboard.workers() if row.state is not State.BOOTING}
    asked = [child for child in children.living if child.pid in serving and child.is_heard]
    accounts = await children.accounts(asked)
    silent = {child.pid for child in asked} - accounts.keys()
    figures: Figures = snapshot(scoreboard)
    for worker in figures["workers"]:
        worker.update(_process(worker["pid"]))
        account = accounts.get(worker["pid"], NOTHING)
        worker["answers"] = worker["pid"] not in silent
        worker["longest"] = {"request": account.request, "age": round(account.age, 3)} if account.request else None
    return {
        "version": __version__,
        "master": {
            "pid": os.getpid(),
            "started": started,
            "config": encodable(generation.settings.source),
            "loaded": generation.loaded,
            "listen": [encodable(str(listener.address)) for listener in generation.settings.listen],
            "generation": generation.number,
            "workers": generation.size,
            "phase": generation.phase.name.lower(),
        },
        "last_reload": last_reload,
        "deaths": {"count": generation.deaths.count, "last": _death(generation)},
        "next_attempt": generation.next_attempt,
        **figures,
    }


def standing(generation: Generation) -> str:
    """The state of the server, in a few words."""
    serving, size = generation.serving, counted(generation.size, "worker")
    if serving >= generation.size:
        return f"generation {generation.number} serves with {size}"
    why = f"; {generation.deaths.last[1]}" if generation.deaths.last else ""
    return f"generation {generation.number}: {serving} of {size} serve{why}"


def _death(generation: Generation) -> Figures | None:
    """The time of the last death (Unix time), and its reason."""
    if generation.deaths.last is None:
        return None
    at, reason = generation.deaths.last
    return {"at": at, "reason": reason}


def _process(pid: int) -> Figures:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return {"cpu": round(times.user + times.system, 2), "memory": process.memory_info().rss}
    except psutil.Error:
        return {"cpu": 0.0, "memory": 0}  # it has just gone
