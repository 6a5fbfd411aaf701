"""What `prefork status` tells: the server, the last reload, each worker by the scoreboard, the system and itself."""

from __future__ import annotations

import os
import time
from typing import Any

import psutil

from prefork import __version__
from prefork.observe.error_log import escape
from prefork.observe.metrics import snapshot
from prefork.observe.scoreboard import Scoreboard
from prefork.process.children import Children
from prefork.process.generation import Generation
from prefork.process.report import Account, encodable

Figures = dict[str, Any]

NOTHING = Account()


async def describe(
    generation: Generation, children: Children, scoreboard: Scoreboard, started: float, last_reload: Figures | None
) -> Figures:
    """JSON-able: times are Unix seconds, memory is bytes resident, cpu the seconds used so far.

    `longest` is the request of a worker that has been under way for the longest time, None where there is none, and
    where the worker does not answer: it is asked, by a thread which is there whatever its loop is in.
    """
    serving = {row.pid for row in scoreboard.workers() if row.state != row.state.BOOTING}
    asked = [child for child in children.living if child.pid in serving and child.reports]
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
        },
        "last_reload": last_reload,
        **figures,
    }


def _process(pid: int) -> Figures:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return {"cpu": round(times.user + times.system, 2), "memory": process.memory_info().rss}
    except psutil.Error:
        return {"cpu": 0.0, "memory": 0}  # it has just gone


def table(status: Figures) -> str:
    """The same for people."""
    master, totals, reload = status["master"], status["totals"], status["last_reload"]
    lines = [
        f"prefork {status['version']}, master {master['pid']} since {_local(master['started'])}, "
        f"generation {master['generation']}{'' if status['ready'] else ', about to stop'}",
        f"  listens on  {', '.join(master['listen'])}",
        f"  config      {master['config'] or '(command line)'}, loaded {_local(master['loaded'])}",
    ]
    if reload:
        outcome = "done" if reload["ok"] else f"FAILED: {escape(reload['message'])}"
        lines.append(f"  last reload {_local(reload['at'])}, {outcome}")
    lines += [
        f"  requests    {totals['requests']} on {totals['accepted']} connections, {totals['sent']} bytes sent",
        "",
        f"  {'pid':>8} {'gen':>4} {'state':<9} {'age s':>7} {'open':>6} {'requests':>10} {'cpu s':>8} {'MiB':>6}"
        "  longest under way",
    ]
    lines += [
        f"  {worker['pid']:>8} {worker['generation']:>4} {worker['state']:<9} {worker['age']:>7.0f} "
        f"{worker['connections']:>6} {worker['requests']:>10} {worker['cpu']:>8.2f} {worker['memory'] / 2**20:>6.1f}"
        f"  {_longest(worker)}".rstrip()
        for worker in status["workers"]
    ]
    return "\n".join(lines)


def _longest(worker: Figures) -> str:
    if not worker["answers"]:
        return "(it does not answer)"
    longest = worker["longest"]
    return f"{longest['age']:.1f} s {escape(longest['request'])}" if longest else ""


def _local(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
