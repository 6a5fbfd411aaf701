from __future__ import annotations

import logging
import logging.config
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork.observe.error_log import configure, escape
from prefork.observe.sink import Sink

LOG = logging.getLogger("prefork")
PREFIX = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d{4} \[\d+\] "


@pytest.fixture
def log_lines(tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """The error log goes to a file at level "info"; the function reads its lines."""
    path = tmp_path / "error.log"
    sink = Sink(str(path))
    configure(sink, "info")
    yield lambda: path.read_text().split("\n")[:-1]
    configure(Sink(""), "warning")
    LOG.handlers.clear()
    LOG.propagate = True
    LOG.setLevel(logging.NOTSET)
    sink.close()


def test_a_line_has_time_pid_level_and_message(log_lines: Callable[[], list[str]]) -> None:
    LOG.warning("worker %d died: %s", 12, "SIGKILL")
    (line,) = log_lines()
    assert re.fullmatch(PREFIX + "warning: worker 12 died: SIGKILL", line)
    assert f" [{os.getpid()}] " in line


def test_messages_below_the_level_are_left_out(log_lines: Callable[[], list[str]]) -> None:
    LOG.debug("too fine")
    LOG.info("shown")
    assert [line.split(": ", 1)[1] for line in log_lines()] == ["shown"]


def test_text_of_a_client_cannot_start_a_line_or_steer_a_terminal(log_lines: Callable[[], list[str]]) -> None:
    LOG.info("bad request %s", "GET /\r\n2026 [1] error: forged \x1b[2J\x85\u2028\u202e\x7f")
    (line,) = log_lines()
    assert line.endswith(r"bad request GET /\x0D\x0A2026 [1] error: forged \x1B[2J\x85\u2028\u202E\x7F")


def test_printable_text_of_any_language_stays_as_it_is() -> None:
    assert escape("/srv/größe/日本 \\x") == "/srv/größe/日本 \\x"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_any_argument_makes_exactly_one_printable_line(log_lines: Callable[[], list[str]], text: str) -> None:
    before = len(log_lines())
    LOG.info("request %s", text)
    lines = log_lines()
    assert len(lines) == before + 1
    assert lines[-1].isprintable()


def test_a_traceback_follows_in_indented_lines(log_lines: Callable[[], list[str]]) -> None:
    try:
        raise ValueError("no\n2026-11-23 17:30:00.123 +0000 [1] error: forged \x1b[2J")
    except ValueError:
        LOG.exception("request failed")
    first, *rest = log_lines()
    assert re.fullmatch(PREFIX + "error: request failed", first)
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-1] == r"    2026-11-23 17:30:00.123 +0000 [1] error: forged \x1B[2J"
    assert all(line.startswith("    ") for line in rest)


def test_a_report_follows_in_indented_lines(log_lines: Callable[[], list[str]]) -> None:
    LOG.error("worker 12 did not start", extra={"report": "Traceback:\n  File x\nImportError: y\n"})
    assert log_lines()[1:] == ["    Traceback:", "      File x", "    ImportError: y"]


def test_asking_for_a_traceback_where_there_is_none_is_harmless(log_lines: Callable[[], list[str]]) -> None:
    LOG.error("no exception here", exc_info=True)
    assert len(log_lines()) == 1


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


@pytest.mark.parametrize(("arguments", "reason"), [(("%d", "x"), "TypeError"), (("%s", Unprintable()), "RuntimeError")])
def test_a_message_that_cannot_be_formatted_says_so_and_never_raises(
    log_lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, object], reason: str
) -> None:
    monkeypatch.setattr(LOG, "handlers", LOG.handlers[:1])  # without that of pytest, which does raise
    LOG.info(*arguments)
    (line,) = log_lines()
    assert re.search(rf"cannot format the message of .*test_error_log\.py:\d+: {reason}$", line)


def test_configuring_again_moves_the_log_and_doubles_nothing(
    log_lines: Callable[[], list[str]], tmp_path: Path
) -> None:
    second = Sink(str(tmp_path / "second.log"))
    configure(second, "error")
    LOG.warning("too fine by now")
    LOG.error("here")
    second.close()
    assert log_lines() == []
    assert len((tmp_path / "second.log").read_text().splitlines()) == 1


def test_an_unknown_level_changes_nothing(log_lines: Callable[[], list[str]]) -> None:
    with pytest.raises(KeyError):
        configure(Sink(""), "loud")
    LOG.info("still here")
    assert len(log_lines()) == 1


def test_an_application_that_disables_loggers_is_undone_by_configuring_again(
    log_lines: Callable[[], list[str]], tmp_path: Path
) -> None:
    logging.config.dictConfig({"version": 1})
    LOG.info("lost")
    sink = Sink(str(tmp_path / "error.log"))
    configure(sink, "info")
    LOG.info("back again")
    sink.close()
    assert [line.split(": ", 1)[1] for line in log_lines()] == ["back again"]


def test_the_root_logger_of_the_application_does_not_repeat_our_lines(
    log_lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    repeated: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", repeated.append)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    LOG.error("once")
    assert len(log_lines()) == 1
    assert repeated == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_logs_although_a_thread_held_the_lock_at_the_fork(log_lines: Callable[[], list[str]]) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        LOG.handlers[0].acquire()
        held.set()
        done.wait()
        LOG.handlers[0].release()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        try:
            LOG.info("from the child")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    done.set()
    thread.join()
    (line,) = log_lines()
    assert f"[{pid}] info: from the child" in line
