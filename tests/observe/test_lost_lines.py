"""Lost log lines: counted by whoever loses them, and told of where an operator looks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.logger import log
from prefork.observe.error_log import configure
from prefork.observe.logs import Logs
from prefork.observe.lost_lines import LostLines
from prefork.observe.sink import Sink
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.settings.schema import Log
from prefork.shared.counters import ACCESS_LOST, ERROR_LOST
from prefork.shared.scoreboard import ACCESS_FAILURE, ERROR_FAILURE, Scoreboard
from tests.observe.test_sink import standard_error

NO_SPACE = "No space left on device"


@pytest.fixture
def board() -> Scoreboard:
    board = Scoreboard(4)
    board.occupy(1, 11, 1)
    board.occupy(2, 12, 1)
    return board


@pytest.fixture(autouse=True)
def own_logs() -> Iterator[None]:
    """What the test makes of the server's log ends with it."""
    yield
    configure(Sink(""), "warning")


def make(board: Scoreboard, **settings: str) -> tuple[Logs, LostLines]:
    """The logs of a master, and who tells of what is lost."""
    logs = Logs(Log(**settings))
    logs.apply()
    logs.count_in(board.slot(0))
    return logs, LostLines(board, lambda: logs)


def lose(board: Scoreboard, slot: int, lines: int, target: str = "/dev/full") -> None:
    """What comes of it when the worker of a slot cannot write so many lines to its access log."""
    sink = Sink(target)
    sink.count_in(board.slot(slot), ACCESS_LOST, ACCESS_FAILURE)
    sink.write(b"200\n" * lines)
    sink.close()


def told(path: Path) -> list[str]:
    return re.findall(r"error: (log lines are lost: .*)", path.read_text())


def test_how_many_lines_of_which_log_are_lost_and_why_is_told_once(board: Scoreboard, tmp_path: Path) -> None:
    logs, lost = make(board, error=str(tmp_path / "error.log"), access="/dev/full")
    assert not lost.tell()
    lose(board, 1, 2)
    lose(board, 2, 3)
    assert lost.tell()
    assert not lost.tell()
    lose(board, 2, 1)
    assert lost.tell()
    assert told(tmp_path / "error.log") == [
        f"log lines are lost: {number} of the access log /dev/full ({NO_SPACE})" for number in (5, 1)
    ]
    logs.close()


def test_what_a_worker_has_lost_is_told_when_it_is_gone(board: Scoreboard, tmp_path: Path) -> None:
    logs, lost = make(board, error=str(tmp_path / "error.log"), access="/dev/full")
    lose(board, 1, 2)
    board.vacate(1)
    assert board.totals()[ACCESS_LOST] == 2
    assert lost.tell()
    board.occupy(1, 13, 2)
    assert not lost.tell()
    assert told(tmp_path / "error.log") == [f"log lines are lost: 2 of the access log /dev/full ({NO_SPACE})"]
    logs.close()


def test_a_reason_of_earlier_losses_is_not_told_again(board: Scoreboard, tmp_path: Path) -> None:
    logs, lost = make(board, error=str(tmp_path / "error.log"), access="/dev/full")
    lose(board, 1, 1)
    assert lost.tell()
    reader, nobody_reads = os.pipe()
    os.close(reader)
    with standard_error(nobody_reads):
        lose(board, 2, 1, "-")
    os.close(nobody_reads)
    assert lost.tell()
    assert [line.rpartition("(")[2] for line in told(tmp_path / "error.log")] == [f"{NO_SPACE})", "Broken pipe)"]
    logs.close()


def test_what_a_forked_process_loses_is_not_counted_as_its_parents(board: Scoreboard) -> None:
    sink = Sink("/dev/full")
    sink.count_in(board.slot(1), ERROR_LOST, ERROR_FAILURE)
    pid = os.fork()
    if not pid:
        sink.write(b"a child's\n")
        sink.count_in(board.slot(2), ERROR_LOST, ERROR_FAILURE)
        sink.write(b"a child's\n")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    sink.write(b"one\ntwo\n")
    assert [board.slot(slot)[ERROR_LOST] for slot in (1, 2)] == [2, 1]
    sink.close()


def test_an_error_log_that_is_lost_itself_is_told_of_on_stderr_and_not_again_for_that(
    board: Scoreboard, tmp_path: Path
) -> None:
    with open(tmp_path / "stderr", "wb") as stderr, standard_error(stderr.fileno()):
        logs, lost = make(board, error="/dev/full", access="")
        log.error("one")
        assert lost.tell()
        assert not lost.tell()
        logs.close()
    sentence = f"prefork: log lines are lost: 1 of the error log /dev/full ({NO_SPACE})\n"
    assert (tmp_path / "stderr").read_text() == sentence
    assert board.totals()[ERROR_LOST] == 2


def test_stderr_that_is_the_lost_log_itself_is_left_alone(board: Scoreboard, tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with standard_error(full):
        logs, lost = make(board, error="-", access="-")
        log.error("one")
        assert lost.tell()
        assert not lost.tell()
        logs.close()
    os.close(full)


def test_it_looks_now_and_then_and_tells_no_more_often_than_it_may(board: Scoreboard, tmp_path: Path) -> None:
    logs, _ = make(board, error=str(tmp_path / "error.log"), access="/dev/full")
    lost = LostLines(board, lambda: logs, look=0.01, pause=0.1)
    loop = Loop(make_poller())

    async def lose_more() -> None:
        for _ in range(20):
            board.slot(1)[ACCESS_LOST] += 1
            await loop.sleep(0.01)
        loop.stop()

    loop.spawn(lost.watch(loop), "telling")
    loop.spawn(lose_more(), "losing")
    loop.run()
    loop.close()
    assert 2 <= len(told(tmp_path / "error.log")) <= 4
    logs.close()
