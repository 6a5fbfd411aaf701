from __future__ import annotations

import io
import logging
import logging.config
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork.logger import log as LOG
from prefork.observe.error_log import configure, escape
from prefork.observe.sink import Sink
from tests.conftest import repeat

PREFIX = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d{4} \[\d+\] "


@pytest.fixture
def log_lines(tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """The error log goes to a file at level "info"; the function reads its lines."""
    path = tmp_path / "error.log"
    sink = Sink(str(path))
    configure(sink, "info")
    yield lambda: path.read_text().split("\n")[:-1]
    configure(Sink(""), "warning")
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
        LOG.error("request failed", exc_info=True)
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
    log_lines: Callable[[], list[str]], arguments: tuple[str, object], reason: str
) -> None:
    LOG.info(*arguments)
    (line,) = log_lines()
    assert line.endswith(f"cannot format the message {arguments[0]!r}: {reason}")


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


def everything_off() -> None:
    logging.disable(logging.CRITICAL)


def handlers_cleared() -> None:
    for name in ("prefork", "", *logging.root.manager.loggerDict):
        logging.getLogger(name).handlers.clear()
    logging.shutdown()


def dict_config() -> None:
    logging.config.dictConfig({"version": 1})  # disable_existing_loggers is the default


def file_config() -> None:
    text = "[loggers]\nkeys=root\n[handlers]\nkeys=\n[formatters]\nkeys=\n[logger_root]\nhandlers=\n"
    logging.config.fileConfig(io.StringIO(text))


def prefork_named() -> None:
    config = {"version": 1, "loggers": {"prefork": {"level": "CRITICAL", "handlers": [], "propagate": False}}}
    logging.config.dictConfig(config)


def level_names() -> None:
    logging.addLevelName(logging.ERROR, "\x1b[31mfatal\x1b[0m")


def classes() -> None:
    class Mute(logging.Logger):
        def handle(self, record: logging.LogRecord) -> None:
            pass

    logging.setLoggerClass(Mute)
    logging.setLogRecordFactory(lambda *args, **keys: 1 / 0)  # type: ignore[arg-type, return-value]


def streams() -> None:
    sys.stderr.close()
    sys.stderr = sys.stdout = None  # type: ignore[assignment]


CONFIGURATIONS = [
    everything_off,
    handlers_cleared,
    dict_config,
    file_config,
    prefork_named,
    level_names,
    classes,
    streams,
]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda each: each.__name__)
def test_nothing_that_an_application_does_to_logging_reaches_the_log(
    log_lines: Callable[[], list[str]], configuration: Callable[[], None]
) -> None:
    """In a forked child, so that it is the child's logging alone."""
    pid = os.fork()
    if pid == 0:
        try:
            LOG.handlers.remove(repeat)
            configuration()
            LOG.error("here", exc_info=ValueError("the cause"))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    first, *rest = log_lines()
    assert re.fullmatch(PREFIX + "error: here", first)
    assert rest == ["    ValueError: the cause"]


def test_the_root_logger_of_the_application_does_not_repeat_our_lines(
    log_lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    repeated: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", repeated.append)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    monkeypatch.setattr(LOG, "handlers", [each for each in LOG.handlers if each is not repeat])
    LOG.error("once")
    assert len(log_lines()) == 1
    assert repeated == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.usefixtures("log_lines")
def test_a_child_logs_although_a_thread_held_the_lock_at_the_fork(tmp_path: Path) -> None:
    held, done = threading.Event(), threading.Event()

    class Slow(Sink):
        def write(self, lines: bytes) -> None:
            if not held.is_set():
                held.set()
                done.wait()
            super().write(lines)

    slow = Slow(str(tmp_path / "slow.log"))
    configure(slow, "info")
    thread = threading.Thread(target=LOG.info, args=["from the parent"])
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
    slow.close()
    first, second = (tmp_path / "slow.log").read_text().splitlines()
    assert f"[{pid}] info: from the child" in first
    assert f"[{os.getpid()}] info: from the parent" in second
