"""Children: forks, reports and deaths, one process at a time. Nothing that a child does reaches its parent's frames."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NoReturn

import psutil
import pytest

from prefork.errors import BootError, MalformedMessage, TargetError
from prefork.process.messages import Account, Report, Reporter, describe, whereabouts
from prefork.process.pool.child import Child
from prefork.process.pool.children import Children
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from tests.conftest import eventually


@pytest.fixture
def children() -> Iterator[Children]:
    loop = Loop(make_poller())
    children = Children(loop)
    before = psutil.Process().num_fds()
    yield children
    for child in children.living:
        child.signal(signal.SIGKILL)
        wait_exit(children, child)
    assert psutil.Process().num_fds() <= before, "descriptors have leaked"
    loop.close()
    os.close(children.lifeline)
    os.close(children._life)


def wait_exit(children: Children, child: Child) -> str:
    def is_gone() -> bool:
        children.reap()
        return child.exited.is_set()

    eventually(is_gone, what="the end of the child")
    child.hang_up()
    return child.exit_description


def boot(children: Children, child: Child, timeout: float = 10.0, **how: float) -> BootError | None:
    """The outcome of `ready(timeout, **how)`; SIGCHLD is played by a task."""
    outcome: list[BootError | None] = []

    async def wait() -> None:
        try:
            await child.ready(timeout, **how)
            outcome.append(None)
        except BootError as error:
            outcome.append(error)
        children.loop.stop()

    async def reap() -> NoReturn:
        while True:
            children.reap()
            await children.loop.sleep(0.005)

    children.loop.spawn(wait(), "waiting")
    reaping = children.loop.spawn(reap(), "reaping")
    children.loop.run()
    reaping.cancel()
    return outcome[0]


def live(reporter: Reporter) -> int:
    reporter.send(Report())
    time.sleep(1000)
    return 0


def test_a_child_is_ready_when_it_says_so(children: Children) -> None:
    child = children.fork(live)
    assert boot(children, child) is None
    assert children.living == [child]
    child.signal(signal.SIGKILL)
    assert wait_exit(children, child) == "SIGKILL"
    assert children.living == []


def test_a_child_is_ready_though_its_own_child_holds_the_pipe_open(children: Children) -> None:
    def main(reporter: Reporter) -> int:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(writer)
            os.read(reader, 1)  # until the one above is gone
            os._exit(0)
        return live(reporter)

    assert boot(children, children.fork(main)) is None


def test_what_a_child_returns_is_its_exit_status(children: Children) -> None:
    assert wait_exit(children, children.fork(lambda reporter: 3)) == "exit status 3"


def test_a_child_that_raises_reports_its_traceback_and_ends(children: Children) -> None:
    def main(reporter: Reporter) -> int:
        raise ValueError("caf\udce9" * 100_000)

    child = children.fork(main)
    error = boot(children, child)
    assert str(error).startswith(f"worker {child.pid} cannot boot: ValueError: caf\\udce9caf")
    assert error
    assert "in main" in error.report
    assert wait_exit(children, child) == f"exit status {os.EX_SOFTWARE}"


def test_a_child_that_raises_after_its_report_is_no_boot_error(children: Children) -> None:
    def main(reporter: Reporter) -> int:
        reporter.send(Report())
        raise KeyboardInterrupt

    child = children.fork(main)
    assert boot(children, child) is None
    assert wait_exit(children, child) == f"exit status {os.EX_SOFTWARE}"


@pytest.mark.parametrize("died", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os._exit(0)])
def test_a_child_that_dies_without_a_word_is_told_of_by_its_end(children: Children, died: Callable[[], None]) -> None:
    child = children.fork(lambda reporter: died() or 0)
    error = boot(children, child)
    assert str(error) == f"worker {child.pid} died while it booted: {child.exit_description}"


def test_a_child_that_dies_in_mid_report_has_reported_nothing(children: Children) -> None:
    known = set(os.listdir("/dev/fd"))

    def main(reporter: Reporter) -> int:
        (pipe,) = (
            entry for entry in os.listdir("/dev/fd") if entry not in known and os.path.exists(f"/dev/fd/{entry}")
        )
        os.write(int(pipe), b'{"problem": "')
        os._exit(9)

    child = children.fork(main)
    assert str(boot(children, child)) == f"worker {child.pid} died while it booted: exit status 9"


@pytest.mark.parametrize("begun", [b"", b'{"problem": "'])
def test_a_childs_death_is_noticed_though_its_own_child_holds_the_pipe_open(children: Children, begun: bytes) -> None:
    reader, writer = os.pipe()
    known = set(os.listdir("/dev/fd"))

    def main(reporter: Reporter) -> int:
        if os.fork() == 0:
            os.close(writer)
            os.read(reader, 1)  # until the test is over
            os._exit(0)
        (pipe,) = (
            entry for entry in os.listdir("/dev/fd") if entry not in known and os.path.exists(f"/dev/fd/{entry}")
        )
        os.write(int(pipe), begun)
        os._exit(3)

    child = children.fork(main)
    os.close(reader)
    try:
        assert str(boot(children, child)) == f"worker {child.pid} died while it booted: exit status 3"
    finally:
        os.close(writer)


def test_what_a_child_says_in_the_same_breath_as_that_it_is_ready_is_not_lost(children: Children) -> None:
    def main(reporter: Reporter) -> int:
        os.write(reporter.fd, b"{}\n{}\n")  # that it is to be replaced
        time.sleep(1000)
        return 0

    child = children.fork(main)
    assert boot(children, child) is None
    children.loop.spawn(child.listen(), "listening")
    children.loop.turn()
    assert child.departing.is_set()


NONSENSE = {
    "no JSON": b"good morning\n",
    "nested without end": b'{"x": ' + b"[" * 100_000 + b"\n",
    "no end": b"x" * (1 << 20),
    "no UTF-8": b'{"problem": "\xff"}\n',
}


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
def test_a_child_that_says_what_makes_no_sense_in_place_of_being_ready_cannot_boot(
    children: Children, said: bytes
) -> None:
    child = children.fork(lambda reporter: (os.write(reporter.fd, said) and time.sleep(1000)) or 0)
    assert str(boot(children, child)).startswith(f"worker {child.pid} sent a malformed message: ")


@pytest.mark.parametrize("said", [*NONSENSE.values(), b'{"account": {}}\n' * 1000], ids=[*NONSENSE, "unasked"])
def test_a_worker_that_says_what_makes_no_sense_is_to_be_replaced_and_told_of_once(
    children: Children, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def main(reporter: Reporter) -> int:
        reporter.send(Report())
        with suppress(OSError):  # it is not heard to the end
            while True:
                os.write(reporter.fd, said)
        return live(reporter)

    child, other = children.fork(main), children.fork(live)
    assert (boot(children, child), boot(children, other)) == (None, None)

    async def wait() -> None:
        children.loop.spawn(child.listen(), "listening")
        children.loop.spawn(other.listen(), "listening")
        await child.departing.wait()
        child.hang_up()
        children.loop.stop()

    children.loop.spawn(wait(), "waiting")
    children.loop.run()
    (message,) = caplog.messages
    assert message.startswith(f"worker {child.pid} sent a malformed message: ")
    assert not other.departing.is_set()


def test_an_account_is_believed_as_far_as_it_can_be_true(children: Children) -> None:
    def main(reporter: Reporter) -> int:
        reporter.send(Report())
        os.read(reporter.fd, 1)
        reporter.send(Report(account=Account("GET /" + "x" * 10_000, 1e300)))
        return live(reporter)

    child = children.fork(main)
    assert boot(children, child) is None
    accounts: list[dict[int, Account]] = []

    async def ask() -> None:
        listening = children.loop.spawn(child.listen(), "listening")
        accounts.append(await children.accounts([child]))
        listening.cancel()
        children.loop.stop()

    children.loop.spawn(ask(), "asking")
    children.loop.run()
    account = accounts[0][child.pid]
    assert len(account.request) == 500
    assert 0 <= account.age <= child.age


@pytest.mark.parametrize("whose", ["nobody", "another's", "known", "let go"])
def test_only_a_new_child_that_the_kernel_knows_as_ours_is_adopted(children: Children, whose: str) -> None:
    """To adopt a process is to signal and to kill it."""
    known = children.fork(live)
    assert boot(children, known) is None
    ours, theirs = socket.socketpair()
    pids = {"nobody": [0, -1, 10**60], "another's": [os.getpid(), os.getppid()], "known": [known.pid]}
    if whose == "let go":
        children.let_go(known)
    with theirs:
        for pid in pids.get(whose, [known.pid]):
            with pytest.raises(MalformedMessage, match="no new child of this one"):
                children.adopt(pid, os.dup(ours.fileno()))
    ours.close()
    assert children.living == ([] if whose == "let go" else [known])
    if whose == "let go":
        os.kill(known.pid, signal.SIGKILL)
        os.waitpid(known.pid, 0)
        known.hang_up()


@pytest.mark.parametrize("dies", ["later", "before it is adopted"])
def test_a_child_that_was_forked_past_us_is_adopted(children: Children, dies: str) -> None:
    ours, theirs = socket.socketpair()
    with children.adopting(), theirs:
        pid = os.fork()
        if not pid:
            os.close(ours.fileno())
            theirs.recv(1)
            os._exit(3)
        if dies != "later":
            ours.send(b"x")
            eventually(lambda: children.reap() or bool(children._strays), what="its end")
        child = children.adopt(pid, ours.detach())
    if dies == "later":
        child.ask(b"x")
    assert wait_exit(children, child) == "exit status 3"


def test_a_child_that_says_nothing_is_given_up(children: Children) -> None:
    child = children.fork(lambda reporter: time.sleep(1000) or 0)
    error = boot(children, child, 0.01, place_timeout=0.05)
    assert str(error).startswith(
        f"worker {child.pid} was not ready within 0.01 s (workers.boot_timeout), and does not say"
    )


def test_a_child_whose_boot_takes_too_long_is_asked_where_it_is(children: Children) -> None:
    def main(reporter: Reporter) -> int:
        os.read(reporter.fd, 1)
        reporter.send(whereabouts("in the middle of it"))
        return live(reporter)

    child = children.fork(main)
    error = boot(children, child, 0.05)
    assert error
    assert str(error) == f"worker {child.pid} was not ready within 0.05 s (workers.boot_timeout)"
    assert error.report == "in the middle of it"


@pytest.mark.parametrize("name", ["os.fork", "socket.socketpair"])
def test_where_no_child_can_be_forked_that_is_a_boot_error(
    children: Children, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> NoReturn:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with monkeypatch.context() as patch:
        patch.setattr(name, refuse)
        with pytest.raises(BootError, match="cannot fork a worker: Resource temporarily unavailable"):
            children.fork(live)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert children.living == []


class Broken:
    """A stream that an application may put in the place of sys.stdout."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def flush(self) -> NoReturn:
        raise self.error


@pytest.mark.parametrize("error", [OSError("full"), ValueError("closed"), RuntimeError("odd"), KeyboardInterrupt()])
def test_nothing_that_is_raised_in_a_child_reaches_the_parents_frames(children: Children, error: BaseException) -> None:
    parent = os.getpid()

    def main(reporter: Reporter) -> int:
        sys.stdout = Broken(error)  # type: ignore[assignment]
        return 5

    try:
        child = children.fork(main)
    finally:
        if os.getpid() != parent:
            os._exit(99)
    assert wait_exit(children, child) == "exit status 5"


def test_signals_wait_until_the_child_lets_them_in(children: Children) -> None:
    def main(reporter: Reporter) -> int:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return 0 if {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD} <= blocked else 1

    assert wait_exit(children, children.fork(main)) == "exit status 0"


def test_a_child_holds_neither_the_lifelines_end_nor_its_siblings_pipes(children: Children) -> None:
    sibling = children.fork(live)
    held = [children._life, sibling._report]

    def main(reporter: Reporter) -> int:
        for descriptor in held:
            try:
                os.fstat(descriptor)
                return 1
            except OSError:
                continue
        return 0

    assert wait_exit(children, children.fork(main)) == "exit status 0"


def test_who_does_not_obey_is_killed_after_the_timeout(children: Children, caplog: pytest.LogCaptureFixture) -> None:
    def deaf(reporter: Reporter) -> int:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return live(reporter)

    child = children.fork(deaf)
    assert boot(children, child) is None

    async def dismiss() -> None:
        await children.dismiss([child], 0.05, urgent=True)
        children.loop.stop()

    async def reap() -> NoReturn:
        while True:
            children.reap()
            await children.loop.sleep(0.005)

    children.loop.spawn(dismiss(), "dismissing")
    reaping = children.loop.spawn(reap(), "reaping")
    children.loop.run()
    reaping.cancel()
    child.hang_up()
    assert child.exit_description == "SIGKILL"


def test_a_target_error_speaks_for_itself_and_others_come_with_their_traceback() -> None:
    assert describe(TargetError("no such module")) == Report("no such module")
    report = describe(ZeroDivisionError("by zero"))
    assert report.problem == "ZeroDivisionError: by zero"
    assert report.traceback == "ZeroDivisionError: by zero\n"
