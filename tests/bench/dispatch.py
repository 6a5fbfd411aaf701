"""What the loop costs: nanoseconds for each time that a task waiting for a descriptor goes on, on every poller here.

    python tests/bench/dispatch.py [--resumes 200000] [--rounds 5]

`ping` is a byte sent to the task through a socket pair, the wait for it, and its reading, with one task and with 64
that are all ready in a turn, so that they share the system call; `bare` is the same sending and reading without a loop.
`dispatch` is the wait alone: 64 tasks on descriptors that are always ready. `PAUSE` is a task that waits for nothing.
The best of the rounds is reported: what the machine does besides only ever adds.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from time import perf_counter_ns

from prefork.runtime.loop import Loop
from prefork.runtime.poller import POLLERS
from prefork.runtime.task import PAUSE, Readiness

Pair = tuple[socket.socket, socket.socket]
Step = Callable[[Pair, Readiness, int], Awaitable[None]]


async def ping(pair: Pair, ready: Readiness, times: int) -> None:
    recv, send = pair[0].recv, pair[1].send
    for _ in range(times):
        send(b"x")
        await ready
        recv(1)


async def dispatch(pair: Pair, ready: Readiness, times: int) -> None:
    pair[1].send(b"x")
    for _ in range(times):
        await ready


async def pause(pair: Pair, ready: Readiness, times: int) -> None:
    for _ in range(times):
        await PAUSE


def bare(resumes: int) -> float:
    """Nanoseconds for a byte sent and read."""
    left, right = socket.socketpair()
    with left, right:
        recv, send = left.recv, right.send
        start = perf_counter_ns()
        for _ in range(resumes):
            send(b"x")
            recv(1)
        return (perf_counter_ns() - start) / resumes


def measure(poller: str, step: Step, tasks: int, resumes: int) -> float:
    """Nanoseconds a resume, with `tasks` tasks that share `resumes` of them."""

    async def run(pair: Pair) -> None:
        await step(pair, loop.readable(pair[0].fileno()), resumes // tasks)

    with ExitStack() as stack:
        loop = Loop(POLLERS[poller]())
        stack.callback(loop.close)
        for _ in range(tasks):
            left, right = socket.socketpair()
            loop.spawn(run((stack.enter_context(left), stack.enter_context(right))), step.__name__)
        start = perf_counter_ns()
        loop.run()
        return (perf_counter_ns() - start) / resumes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resumes", type=int, default=200_000, help="of tasks, a figure and round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    columns = {"ping, 1": (ping, 1), "ping, 64": (ping, 64), "dispatch, 64": (dispatch, 64), "PAUSE, 64": (pause, 64)}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"CPython {sys.version.split()[0]}; bare: {min(bare(options.resumes) for _ in range(options.rounds)):.0f} ns")
    print(f"| ns a resume | {' | '.join(columns)} |\n| --- |{' --: |' * len(columns)}")
    for poller in POLLERS:
        figures = [
            min(measure(poller, step, tasks, options.resumes) for _ in range(options.rounds))
            for step, tasks in columns.values()
        ]
        print(f"| {poller} | {' | '.join(f'{figure:.0f}' for figure in figures)} |")


if __name__ == "__main__":
    main()
