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
from prefork.kernel import forks

def noted(text):
    os.write(1, f"{text}\\n".encode())

def status(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

forks.host()
forks.on_fork(lambda: noted(f"forked {forks.forked}, blocks {len(signal.pthread_sigmask(signal.SIG_BLOCK, ())) > 30}"))
"""


def run(program: str) -> list[str]:
    """The lines that it writes, after BEGINNING."""
    done = subprocess.run(
        # from 3.12 on, Python warns of each fork beside threads
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", BEGINNING + program],
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
with forks.own():
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
sibling = multiprocessing.get_context("fork").Process(target=signal.pause, daemon=True)
sibling.start()
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
