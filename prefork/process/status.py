"""What `prefork status` tells: the server, its last reload, and each worker as the scoreboard and the system see it."""

from __future__ import annotations

import os
from typing import Any

import psutil

from prefork import __version__
from prefork.observe.metrics import snapshot
from prefork.observe.scoreboard import Scoreboard
from prefork.process.generation import Generation

Figures = dict[str, Any]


def describe(generation: Generation, started: float, last_reload: Figures | None, scoreboard: Scoreboard) -> Figures:
    """JSON-able: times are Unix seconds, memory is bytes resident, cpu the seconds used so far."""
    figures: Figures = snapshot(scoreboard)
    for worker in figures["workers"]:
        worker.update(_process(worker["pid"]))
    return {
        "version": __version__,
        "master": {
            "pid": os.getpid(),
            "started": started,
            "config": generation.settings.source,
            "listen": [str(listener.address) for listener in generation.settings.listen],
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
        f"prefork {status['version']}, master {master['pid']}, generation {master['generation']}",
        f"  listens on  {', '.join(master['listen'])}",
        f"  config      {master['config'] or '(command line)'}",
    ]
    if reload:
        lines.append(f"  last reload {'done' if reload['ok'] else 'FAILED: ' + reload['message']}")
    lines.append(f"  requests    {totals['requests']} on {totals['accepted']} connections, {totals['sent']} bytes sent")
    lines.append("")
    lines.append(
        f"  {'pid':>8} {'gen':>4} {'state':<9} {'age s':>7} {'open':>6} {'requests':>10} {'cpu s':>8} {'MiB':>6}"
    )
    lines += [
        f"  {worker['pid']:>8} {worker['generation']:>4} {worker['state']:<9} {worker['age']:>7.0f} "
        f"{worker['connections']:>6} {worker['requests']:>10} {worker['cpu']:>8.2f} {worker['memory'] / 2**20:>6.1f}"
        for worker in status["workers"]
    ]
    return "\n".join(lines)
