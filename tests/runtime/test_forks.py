"""Forks: in which processes the rule for those that applications fork holds, and how they end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEGINNING = """
import atexit, concurrent.futures, multiprocessing, os, signal, sys, threading
from prefork.runtime import forks

def noted(text):
    os.write(1, f"{text}\\n".encode())

def status(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

forks.host()
forks.on_fork(lambda: noted(f"forked {forks.forked}, blocks {len(signal.pthread_sigmask(signal.SIG_BLOCK, ())) > 30}"))
"""


def run(program: str, *, before: str = "") -> list[str]:
    """The lines that it writes, after `before` and BEGINNING."""
    done = subprocess.run(
        # from 3.12 on, Python warns of each fork beside threads
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", before + BEGINNING + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


def test_what_an_application_forks_is_told_before_a_signal_can_come_and_its_own_children_are_not() -> None:
    assert run("""
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
child = os.fork()
if not child:
    noted(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))))
    grandchild = os.fork()
    os._exit(status(grandchild) if grandchild else 5)
noted(status(child))
noted((forks.forked, sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))))
""") == ["forked True, blocks True", "[1]", "5", "(False, [1])"]


def test_what_the_server_itself_forks_is_none_of_these_though_an_application_forks_meanwhile() -> None:
    assert run("""
with forks.server_fork():
    child = os.fork()
    if not child:
        noted(forks.forked)
        forks.host()
        forks.on_fork(lambda: noted("a worker's"))
        grandchild = os.fork()
        os._exit(status(grandchild) if grandchild else 6)
    noted(status(child))
    thread = threading.Thread(target=lambda: os.fork() or os._exit(0))
    thread.start()
    thread.join()
    os.wait()
""") == ["False", "a worker's", "6", "forked True, blocks True"]


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("pass", ["exit function", "0"]),
        ("sys.exit(3)", ["exit function", "3"]),
        ("sys.exit('why')", ["exit function", "1", "why"]),
        ("raise KeyboardInterrupt", ["exit function", str(128 + signal.SIGINT)]),
        ("1 / 0", ["exit function", "1"]),
    ],
)
def test_it_ends_as_a_python_process_does(end: str, said: list[str]) -> None:
    told = run(f"""
atexit.register(noted, "exit function")
child = os.fork()
if not child:
    with forks.applications_code():
        {end}
noted(status(child))
os._exit(0)
""")
    assert [line for line in told if line.isdecimal() or line in said] == said


def test_its_exit_functions_leave_its_parents_children_and_threads_alone() -> None:
    assert run("""
there = multiprocessing.get_context("fork").Event()
sibling = multiprocessing.get_context("fork").Process(target=lambda: (there.set(), signal.pause()), daemon=True)
sibling.start()
there.wait()
atexit.register(noted, "exit function")

def fork():
    child = os.fork()
    if not child:
        forks.leave(SystemExit(4))
    noted(status(child))

with concurrent.futures.ThreadPoolExecutor() as pool:
    pool.submit(fork).result()
noted(sibling.is_alive())
sibling.kill()
sibling.join()
os._exit(0)
""") == ["forked True, blocks True"] * 2 + ["exit function", "4", "True"]


def test_a_fork_waits_until_a_descriptor_has_arrived() -> None:
    assert run("""
def fork():
    if not os.fork():
        os._exit(0)
    os.wait()
    noted("forked")

with forks.arriving:
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join(0.05)
    noted("arrived")
thread.join()
""") == ["arrived", "forked True, blocks True", "forked"]


@pytest.mark.parametrize(
    "call",
    [
        pytest.param("register_late(before=raise_signal)", id="ahead of ours"),
        pytest.param("register_early(before=raise_signal)", id="while signals are blocked"),
        pytest.param(
            "register_early(after_in_parent=signal_thread), register_early(after_in_parent=pause)",
            id="by a thread that blocks none",
        ),
    ],
)
def test_a_handler_that_raises_in_the_midst_of_a_fork_leaves_neither_signals_blocked_nor_descriptors(call: str) -> None:
    """These calls are functions of C: the handler, which is Python, is run no sooner than in ours."""
    early = call.startswith("register_early")
    register = call.replace("register_early", "os.register_at_fork").replace("register_late", "os.register_at_fork")
    told, *lines = run(
        """
def handler(*_):
    raise TimeoutError("of the application")

signal.signal(signal.SIGUSR1, handler)
sys.unraisablehook = lambda raised: noted(repr(raised.exc_value))
child = os.fork()
if not child:
    os._exit(3 if forks.forked else 4)
noted(status(child))
waiting = threading.Thread(target=lambda: noted(forks.arriving.acquire(timeout=5)))
waiting.start()
waiting.join()
noted(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))))
""",
        before=f"""
import ctypes, os, signal, threading, time
from functools import partial
libc = ctypes.PyDLL(None)
raise_signal = partial(getattr(libc, "raise"), int(signal.SIGUSR1))
other = threading.Thread(target=time.sleep, args=[100], daemon=True)
other.start()
pause = partial(libc.usleep, 100_000)  # for the signal to come
signal_thread = partial(libc.pthread_kill, ctypes.c_ulong(other.ident), int(signal.SIGUSR1))
{register if early else ""}
from prefork.runtime import forks# as in a worker: no other calls at a fork come between these and the fork
{"" if early else register}
""",
    )
    assert sorted([told, lines[0]]) == ["TimeoutError('of the application')", "forked True, blocks True"]
    assert lines[1:] == ["3", "True", "[]"]


@pytest.mark.parametrize("name", ["_work", "publish", "_answer"], ids=["pool", "watcher", "diagnostics"])
def test_what_is_forked_in_the_midst_of_a_thread_of_the_server_ends_there(name: str) -> None:
    """By a finalizer, or a profiler, as here: when this function of the thread's code returns."""
    forked, ended, told = run(f"""
import socket
from prefork.runtime.calls import Call
from prefork.runtime.threads import ThreadPool
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.process.worker.diagnostics import Diagnostics

ended = []

def profile(frame, event, argument):
    if event == "return" and frame.f_code.co_name == "{name}" and threading.current_thread().daemon:
        sys.setprofile(None)
        if child := os.fork():
            ended.append(status(child))

loop = Loop(make_poller())
pool = ThreadPool(loop, 2)
ours, theirs = socket.socketpair()
threading.setprofile(profile)
pool.start()
Diagnostics(None, theirs.fileno())
threading.setprofile(None)

async def main():
    await pool.delegate(Call("a call", 0), lambda: None)
    ours.send(b"a question")
    while not ended:
        await loop.sleep(0.005)
    loop.stop()

loop.spawn(main(), "main")
pool.run(lambda failure: None)
noted(ended)
""")
    assert (forked, ended) == ("forked True, blocks True", "[0]")
    assert "forked returned to the server" in told
