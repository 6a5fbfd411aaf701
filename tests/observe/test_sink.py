from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.observe.sink import Sink
from tests.net.conftest import forked

pytestmark = pytest.mark.timeout(20)  # a sink that blocks fails its test


@contextlib.contextmanager
def standard_error(fd: int) -> Iterator[None]:
    """Let descriptor 2 be `fd` meanwhile."""
    saved = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def named_pipe(capacity: int) -> Iterator[tuple[Sink, int]]:
    """A sink on a named pipe, and the reading end, which does not wait either."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/log"
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        sink = Sink(path)
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, capacity)
        try:
            yield sink, reader
        finally:
            sink.close()
            os.close(reader)


def drain(fd: int) -> bytes:
    """All that can be read at once from a non-blocking descriptor."""
    pieces = []
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(fd, 65536):
            pieces.append(piece)
    return b"".join(pieces)


def test_lines_are_appended_to_what_a_file_already_holds(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    sink = Sink(str(path))
    sink.write(b"one\ntwo\n")
    sink.close()
    assert path.read_bytes() == b"old\none\ntwo\n"


def test_a_new_file_is_readable_by_all_and_its_descriptor_is_not_inherited(tmp_path: Path) -> None:
    path = str((tmp_path / "log").resolve())
    umask = os.umask(0o022)
    sink = Sink(path)
    os.umask(umask)
    assert os.stat(path).st_mode & 0o777 == 0o644
    descriptors = [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{fd}") == path]
    assert [os.get_inheritable(fd) for fd in descriptors] == [False]
    sink.close()


def test_two_sinks_may_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    first, second = Sink(str(path)), Sink(str(path))
    first.write(b"one\n")
    second.write(b"two\n")
    first.write(b"three\n")
    first.close()
    second.close()
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_an_empty_target_is_off() -> None:
    sink = Sink("")
    sink.write(b"nobody sees this\n")
    assert sink.reopen() == ""
    sink.close()
    assert sink.dropped == 0


def test_a_target_that_cannot_be_opened_raises_at_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Sink(str(tmp_path / "missing" / "log"))
    with pytest.raises(IsADirectoryError):
        Sink(str(tmp_path))


def test_a_named_pipe_without_a_reader_raises_instead_of_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device"):
        Sink(str(tmp_path / "pipe"))


def test_a_full_disk_loses_lines_and_counts_them() -> None:
    sink = Sink("/dev/full")
    sink.write(b"one\ntwo\n")
    sink.write(b"three\n")
    assert sink.dropped == 3
    sink.close()


def test_lost_lines_are_announced_once_there_is_room_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = Sink(str(path))
    sink.write(b"before\n")
    with file_size_limit(len(b"before\n")):
        sink.write(b"lost\n" * 17)
    sink.write(b"after\n")
    sink.write(b"later\n")
    sink.close()
    assert sink.dropped == 17
    assert path.read_text() == "before\nprefork: 17 log lines were lost (File too large)\nafter\nlater\n"


def test_a_line_cut_short_by_a_full_disk_is_completed_later(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = Sink(str(path))
    with file_size_limit(len(b"first\nsec")):
        sink.write(b"first\nsecond\nthird\n")
        sink.write(b"fourth\n")
    assert path.read_bytes() == b"first\nsec"
    sink.write(b"fifth\n")
    sink.close()
    assert path.read_text() == "first\nsecond\nprefork: 2 log lines were lost (File too large)\nfifth\n"


def test_closing_announces_what_was_lost_last(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = Sink(str(path))
    with file_size_limit(0):
        sink.write(b"lost\n")
    sink.close()
    sink.close()
    sink.write(b"off\n")
    assert path.read_text() == "prefork: 1 log line was lost (File too large)\n"


def test_a_reader_that_sleeps_never_blocks_the_writer() -> None:
    with named_pipe(65536) as (sink, reader):
        for number in range(1000):
            sink.write(b"%06d %s\n" % (number, b"x" * 93))
        received = drain(reader)
        sink.write(b"awake\n")
        received += drain(reader)
    lines = received.decode().splitlines()
    taken = 1000 - sink.dropped
    assert 500 < taken < 1000
    assert [int(line[:6]) for line in lines[:taken]] == list(range(taken))
    assert lines[taken:] == [f"prefork: {1000 - taken} log lines were lost (its reader does not keep up)", "awake"]


def test_a_reader_that_is_gone_never_stops_service_and_a_new_one_is_served(tmp_path: Path) -> None:
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = Sink(path)
    os.close(reader)
    sink.write(b"lost\n")
    assert sink.dropped == 1
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink.write(b"heard\n")
    assert drain(reader) == b"prefork: 1 log line was lost (Broken pipe)\nheard\n"
    sink.close()
    os.close(reader)


writes = st.lists(st.integers(1, 6000), min_size=1, max_size=8)
reads = st.integers(1, 10000)


@given(st.lists(writes | reads, max_size=30))
def test_a_slow_reader_gets_whole_lines_in_order_and_the_true_count_of_the_others(steps: list[list[int] | int]) -> None:
    written: list[bytes] = []
    received = b""
    with named_pipe(4096) as (sink, reader):
        for step in steps:
            if isinstance(step, int):
                with contextlib.suppress(BlockingIOError):
                    received += os.read(reader, step)
            else:
                lines = [b"%d " % (len(written) + n) + b"x" * size for n, size in enumerate(step)]
                written += lines
                sink.write(b"".join(line + b"\n" for line in lines))
        for _ in range(4):  # a line cut short may need the pipe twice
            received += drain(reader)
            sink.write(b"")
        dropped = sink.dropped
        received += drain(reader)
    assert received.endswith(b"\n") or not received
    lines = received.splitlines()
    notes = [int(line.split()[1]) for line in lines if line.startswith(b"prefork: ")]
    texts = [line for line in lines if not line.startswith(b"prefork: ")]
    numbers = [int(line.split()[0]) for line in texts]
    assert numbers == sorted(numbers)
    assert [written[number] for number in numbers] == texts
    assert len(texts) + sum(notes) == len(written)
    assert sum(notes) == dropped


def test_lines_of_several_processes_on_one_pipe_stay_whole() -> None:
    read_end, write_end = os.pipe()
    children = []
    with standard_error(write_end):
        sink = Sink("-")
        fcntl.fcntl(read_end, fcntl.F_SETPIPE_SZ, 16384)  # soon full, which is when long writes are cut
        for name in b"abcd":
            pid = os.fork()
            if pid == 0:
                try:
                    for _ in range(400):
                        sink.write(bytes([name] * 300 + [0x0A]) * 20)
                finally:
                    os._exit(0)
            children.append(pid)
        sink.close()
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        lines = pipe.read().splitlines()
    for pid in children:
        os.waitpid(pid, 0)
    assert len(lines) >= 40  # what the pipe holds even where nobody reads meanwhile
    whole = re.compile(rb"([abcd])\1{299}|prefork: \d+ log lines? \w+ lost \(.*\)")
    assert [line for line in lines if not whole.fullmatch(line)] == []


@pytest.mark.parametrize("act", [lambda sink: sink.write(b"child\n"), Sink.close], ids=["write", "close"])
def test_a_forked_child_leaves_it_to_its_parent_to_tell_of_what_was_lost_and_cut_short(
    tmp_path: Path, act: Callable[[Sink], None]
) -> None:
    path = tmp_path / "log"
    sink = Sink(str(path))
    with file_size_limit(len(b"first\nsec")):
        sink.write(b"first\nsecond\nthird\n")
    for _ in range(2):
        with forked(lambda: act(sink)) as pid:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    by_children = b"" if act is Sink.close else b"child\nchild\n"
    assert path.read_bytes() == b"first\nsec" + by_children
    sink.close()
    lost = b"ond\nprefork: 1 log line was lost (File too large)\n"
    assert path.read_bytes() == b"first\nsec" + by_children + lost


def test_standard_error_keeps_its_flags_and_its_reader_may_sleep() -> None:
    read_end, write_end = os.pipe()
    with standard_error(write_end):
        before = fcntl.fcntl(2, fcntl.F_GETFL)
        sink = Sink("-")
        for _ in range(2000):
            sink.write(b"x" * 1023 + b"\n")
        assert 0 < sink.dropped < 2000
        assert fcntl.fcntl(2, fcntl.F_GETFL) == before
        sink.close()
        os.fstat(2)
    os.close(read_end)
    os.close(write_end)


def test_a_socket_whose_reader_sleeps_never_blocks_the_writer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, standard_error(ours.fileno()):
        sink = Sink("-")
        for _ in range(1000):
            sink.write(b"x" * 1023 + b"\n")
        assert 0 < sink.dropped < 1000
        sink.close()
        assert os.get_blocking(2)


def test_a_terminal_whose_reader_sleeps_never_blocks_the_writer() -> None:
    control, terminal = os.openpty()
    with standard_error(terminal):
        sink = Sink("-")
        for _ in range(1000):
            sink.write(b"x" * 1022 + b"\n")
        assert 0 < sink.dropped < 1000
        sink.close()
    os.close(control)
    os.close(terminal)


def test_reopening_after_a_rotation_starts_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = Sink(str(path))
    sink.write(b"one\n")
    path.rename(tmp_path / "log.1")
    sink.write(b"two\n")
    assert sink.reopen() == ""
    sink.write(b"three\n")
    sink.close()
    assert (tmp_path / "log.1").read_bytes() == b"one\ntwo\n"
    assert path.read_bytes() == b"three\n"


def test_the_rest_of_a_line_cut_short_does_not_go_to_the_next_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = Sink(str(path))
    with file_size_limit(3):
        sink.write(b"first\n")
    path.rename(tmp_path / "log.1")
    assert sink.reopen() == ""
    sink.write(b"second\n")
    sink.close()
    assert path.read_text() == "prefork: 1 log line was lost (File too large)\nsecond\n"


def test_a_line_cut_short_is_completed_where_reopening_leads_to_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = Sink(str(path))
    with file_size_limit(3):
        sink.write(b"first\n")
    assert sink.reopen() == ""
    sink.write(b"second\n")
    sink.close()
    assert path.read_text() == "first\nsecond\n"


def test_the_old_file_stays_in_use_where_reopening_fails(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    sink = Sink(str(directory / "log"))
    directory.rename(tmp_path / "moved")
    assert sink.reopen() == f"{directory}/log: No such file or directory"
    sink.write(b"still here\n")
    sink.close()
    assert (tmp_path / "moved" / "log").read_bytes() == b"still here\n"


def test_reopening_follows_standard_error_to_where_it_now_leads(tmp_path: Path) -> None:
    sink = Sink("-")
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    with standard_error(fd):
        assert sink.reopen() == ""
        sink.write(b"here\n")
        sink.close()
    os.close(fd)
    assert (tmp_path / "log").read_bytes() == b"here\n"
