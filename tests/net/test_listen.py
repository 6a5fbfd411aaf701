"""Listeners: bound, kept over reloads, taken down; and errors that say what to do."""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from prefork.errors import StartError
from prefork.net import file_paths, socket_file
from prefork.net.listen import Sockets, begin, bind, bind_missing, release, worker_sockets
from prefork.settings.address import Address
from prefork.settings.schema import Listener
from tests.e2e.harness import free_port
from tests.net.conftest import forked

ANY = Address.parse("127.0.0.1:0")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one: paths of unix sockets are short in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def taken() -> Iterator[Address]:
    """An address where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Address("tcp", "127.0.0.1", listener.getsockname()[1])


@pytest.fixture
def current() -> Iterator[Sockets]:
    """What the server listens on; released in the end."""
    sockets: Sockets = {}
    yield sockets
    release(sockets, keep={})


def listeners(*texts: str | Address) -> list[Listener]:
    return [Listener(address=text if isinstance(text, Address) else Address.parse(text)) for text in texts]


def answers(address: object) -> bool:
    """Whether somebody listens there."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        return client.connect_ex(address) == 0  # type: ignore[arg-type]


# ---- binding


def test_a_bound_socket_is_ready_for_a_server() -> None:
    with closing(bind(ANY)) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"
        assert not bound.getblocking()
        assert bound.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert not os.get_inheritable(bound.fileno()), "an application's children do not hold it"
        bound.listen()
        with socket.create_connection(bound.getsockname()) as client, bound.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert client.getpeername() == accepted.getsockname()


def test_an_address_in_time_wait_can_be_bound_again() -> None:
    first = bind(ANY)
    first.listen()
    where = first.getsockname()
    with socket.create_connection(where) as client:
        first.accept()[0].close()  # the side that closes first goes into TIME_WAIT
        assert client.recv(1) == b""
    first.close()
    bind(Address("tcp", *where)).close()


def test_ipv6_leaves_ipv4_to_its_own_listener() -> None:
    port = free_port()  # what the kernel chooses for IPv6 may be some client's port of IPv4
    try:
        six = bind(Address("tcp", "::", port))
    except StartError as error:
        pytest.skip(str(error))
    with six:
        six.listen()
        bind(Address("tcp", "0.0.0.0", port)).close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("192.0.2.1:0", "this machine has no such address"),
        ("unix:no/such/directory/app.sock", "its directory does not exist"),
        ("unix:" + "a" * 200, "too long"),
    ],
)
def test_an_address_that_cannot_be_bound_is_an_error_that_says_why(directory: Path, text: str, message: str) -> None:
    with pytest.raises(StartError) as caught:
        bind(Address.parse(text))
    assert message in str(caught.value)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(directory.iterdir()) == []


def test_a_name_that_nobody_knows_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number is not one of the system's errors, though it may look like one."""

    def getaddrinfo(*arguments: object, **options: object) -> None:
        raise socket.gaierror(errno.EACCES, "nobody knows it")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(StartError, match="cannot listen on host:80: nobody knows it"):
        bind(Address.parse("host:80"))


def test_an_address_in_use_is_an_error_that_names_the_way_out(taken: Address) -> None:
    with pytest.raises(StartError, match=f"{taken}: something listens there already; stop it"):
        bind(taken)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who is not")
def test_a_port_without_permission_is_an_error_that_names_the_way_out() -> None:
    def attempt() -> None:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
            if int(file.read()) <= 80:
                return
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(StartError, match="no permission; a port below 1024"):
            bind(Address.parse("127.0.0.1:80"))

    with forked(attempt) as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who is not")
def test_a_directory_without_permission_is_an_error_that_speaks_of_no_port(directory: Path) -> None:
    def attempt() -> None:
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(StartError, match=r"unix:app\.sock: no permission to create a file in its directory$"):
            bind(Address.parse("unix:app.sock"))

    directory.chmod(0o755)
    with forked(attempt) as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("text", ["127.0.0.1:0", "unix:app.sock"])
def test_a_lack_of_descriptors_is_an_error_that_says_so(directory: Path, text: str) -> None:
    def attempt() -> None:
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, lowest_free))
        with pytest.raises(StartError, match=os.strerror(errno.EMFILE)):
            bind(Address.parse(text))

    with forked(attempt) as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


# ---- unix sockets


def test_a_unix_socket_is_bound_where_its_path_says(directory: Path, current: Sockets) -> None:
    current.update(bind_missing({}, listeners("unix:app.sock")))
    assert answers("app.sock")
    assert (directory / "app.sock").is_socket()


def test_a_stale_unix_socket_makes_way(directory: Path) -> None:
    """Whoever left it was killed."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("app.sock")
        dead.listen()
    with closing(bind(Address.parse("unix:app.sock"))) as bound:
        bound.listen()
        assert answers("app.sock")


@pytest.mark.parametrize("full", [False, True])
def test_a_unix_socket_that_somebody_listens_on_stays(directory: Path, full: bool) -> None:
    with socket.socket(socket.AF_UNIX) as living, socket.socket(socket.AF_UNIX) as client:
        living.bind("app.sock")
        living.listen(0)
        if full:
            client.connect("app.sock")
        with pytest.raises(StartError, match="something listens there already"):
            bind(Address.parse("unix:app.sock"))
        assert (directory / "app.sock").is_socket()
        living.setblocking(False)
        if not full:
            living.accept()[0].close()  # our probe
            assert answers("app.sock")


@pytest.mark.parametrize("kind", ["file", "directory", "link to nothing"])
def test_what_is_no_socket_stays_and_is_called_by_its_name(directory: Path, kind: str) -> None:
    path = directory / "app.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("nothing")
    with pytest.raises(StartError, match=r"app\.sock: the file exists already, and is no socket"):
        bind(Address.parse("unix:app.sock"))
    assert os.path.lexists(path)


def test_releasing_a_socket_whose_file_is_not_there_is_no_error(directory: Path) -> None:
    ours = bind_missing({}, listeners("unix:app.sock"))
    os.unlink("app.sock")
    release(ours, keep={})


def test_a_link_is_neither_probed_nor_removed(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("dead.sock")
    with socket.socket(socket.AF_UNIX) as living:
        living.bind("living.sock")
        living.listen()
        living.setblocking(False)
        for target in ("dead.sock", "living.sock"):
            os.symlink(target, "app.sock")
            with pytest.raises(StartError, match=r"app\.sock: the file exists already, and is no socket"):
                bind(Address.parse("unix:app.sock"))
            os.unlink("app.sock")
        with pytest.raises(BlockingIOError):
            living.accept()


@pytest.mark.skipif(not file_paths.must_walk(), reason="for root, on Linux")
def test_a_link_of_another_user_leads_no_socket_of_roots_elsewhere(directory: Path) -> None:
    (directory / "elsewhere").mkdir()
    os.symlink("elsewhere", "run")
    os.chown("run", 12345, -1, follow_symlinks=False)
    with pytest.raises(StartError, match=r"run/app\.sock: a symlink of user 12345 leads to a path of another user"):
        bind(Address.parse("unix:run/app.sock"))
    assert os.listdir("elsewhere") == []


class Overtaken(socket.socket):
    """Whose directory is moved away as it is being bound, and a link put there."""

    run: Path

    def bind(self, address: Any) -> None:
        self.run.rename(self.run.with_name("moved"))
        self.run.symlink_to("elsewhere")
        super().bind(address)


@pytest.mark.skipif(not file_paths.must_walk(), reason="for root, on Linux")
def test_a_directory_that_is_replaced_meanwhile_leads_no_socket_of_roots_elsewhere(directory: Path) -> None:
    (directory / "elsewhere").mkdir()
    (directory / "run").mkdir()
    os.chown("run", 12345, -1)
    with Overtaken(socket.AF_UNIX) as ours:
        ours.run = directory / "run"
        with pytest.raises(FileNotFoundError, match="moved away"):
            socket_file.bind(ours, "run/app.sock")
    assert os.listdir("elsewhere") == os.listdir("moved") == []
    assert Path.cwd() == directory


@pytest.mark.skipif(not file_paths.must_walk(), reason="for root, on Linux")
def test_a_socket_in_a_directory_of_another_user_is_reached_by_its_path(directory: Path) -> None:
    (directory / "run").mkdir()
    os.chown("run", 12345, -1)
    sockets = bind_missing({}, listeners("unix:run/app.sock"))
    assert answers("run/app.sock")
    release(sockets, keep={})
    assert os.listdir("run") == []


def test_a_socket_file_that_has_taken_the_place_of_ours_stays(directory: Path) -> None:
    ours = bind_missing({}, listeners("unix:app.sock"))
    os.unlink("app.sock")
    with socket.socket(socket.AF_UNIX) as others:
        others.bind("app.sock")
        others.listen()
        release(ours, keep={})
        assert answers("app.sock")


# ---- adopting


def test_a_unix_socket_is_known_by_another_path_to_it(directory: Path, current: Sockets) -> None:
    current |= bind_missing({}, [Listener(address=Address("unix", path="here.sock"))])
    renamed = Address("unix", path=str(directory / "here.sock"))
    assert bind_missing(current, [Listener(address=renamed)]) == {renamed: next(iter(current.values()))}


def test_known_sockets_are_kept_and_new_ones_bound(current: Sockets, directory: Path) -> None:
    current.update(bind_missing({}, listeners(ANY)))
    sockets = bind_missing(current, listeners(ANY, "unix:app.sock"))
    assert sockets[ANY] is current[ANY]
    assert list(current) == [ANY]
    assert answers("app.sock")
    assert answers(sockets[ANY].getsockname())
    current.update(sockets)


def test_sockets_that_are_not_wanted_any_more_are_left_to_be_released(current: Sockets, directory: Path) -> None:
    """For as long as the reload can fail, the old ones are needed."""
    current.update(bind_missing({}, listeners(ANY, "unix:old.sock")))
    sockets = bind_missing(current, listeners("unix:new.sock"))
    assert list(sockets) == [Address.parse("unix:new.sock")]
    assert answers("old.sock")
    assert answers(current[ANY].getsockname())
    current.update(sockets)


def test_a_known_socket_that_was_shut_down_takes_clients_again(directory: Path, current: Sockets) -> None:
    wanted = listeners(Address("tcp", "127.0.0.1", free_port()), "unix:a.sock")
    current.update(bind_missing({}, wanted))
    for listener in current.values():
        listener.shutdown(socket.SHUT_RDWR)
    fresh = bind_missing(current, wanted)
    begin(fresh, wanted)
    release(current, keep=fresh)
    current.update(fresh)
    assert [answers(listener.getsockname()) for listener in fresh.values()] == [True, True]


def test_when_one_cannot_be_bound_nothing_has_changed(current: Sockets, directory: Path, taken: Address) -> None:
    current.update(bind_missing({}, listeners(ANY, "unix:old.sock")))
    before = dict(current)
    descriptors = set(os.listdir("/dev/fd"))
    with pytest.raises(StartError, match=str(taken)):
        bind_missing(current, listeners(ANY, "unix:new.sock", "unix:newer.sock", taken))
    assert current == before
    assert answers("old.sock")
    assert answers(current[ANY].getsockname())
    assert os.listdir(directory) == ["old.sock"]
    assert set(os.listdir("/dev/fd")) == descriptors


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the two may be bound at once")
@pytest.mark.parametrize(
    ("before", "after"),
    [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1"), ("localhost", "127.0.0.1"), ("0.0.0.0", "localhost")],
)
def test_an_address_that_the_server_itself_is_in_the_way_of_takes_a_restart(
    current: Sockets, before: str, after: str
) -> None:
    port = free_port()
    current.update(bind_missing({}, listeners(f"{before}:{port}")))
    held = dict(current)
    restart = rf"{after}:{port}: this server itself listens there, on {before}:{port}; .* a restart \(stop and start\)"
    with pytest.raises(StartError, match=restart):
        bind_missing(current, listeners(f"{after}:{port}"))
    assert current == held
    assert answers(current[Address.parse(f"{before}:{port}")].getsockname())


def test_an_address_that_another_program_has_is_not_blamed_on_the_server(current: Sockets, taken: Address) -> None:
    current.update(bind_missing({}, listeners(ANY, f"127.0.0.2:{taken.port}")))
    with pytest.raises(StartError, match="something listens there already"):
        bind_missing(current, listeners(taken))


def test_when_another_listens_first_nothing_has_changed(current: Sockets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two may bind the same address; only one of them gets to listen."""
    rival = bind(ANY)
    address = Address("tcp", *rival.getsockname())
    ours = bind(address)
    rival.listen()
    monkeypatch.setattr("prefork.net.listen.bind", lambda *_: ours)
    with rival, pytest.raises(StartError, match="something listens there already"):
        bind_missing(current, listeners(address))
    assert ours.fileno() == -1
    assert current == {}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a backlog")
def test_the_backlog_of_a_known_socket_changes_when_the_new_workers_begin(current: Sockets) -> None:
    current.update(bind_missing({}, [Listener(address=ANY, backlog=5)]))
    wanted = [Listener(address=ANY, backlog=7)]
    adopted = bind_missing(current, wanted)
    assert backlog(current[ANY]) == 5  # the reload may fail yet
    begin(adopted, wanted)
    assert backlog(current[ANY]) == 7


def backlog(listener: socket.socket) -> int:
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
    return int.from_bytes(info[28:32], sys.byteorder)  # tcpi_sacked: a listener's backlog (inet_diag(7))


# ---- releasing


def test_releasing_closes_and_removes_what_is_not_kept(directory: Path, current: Sockets) -> None:
    sockets = bind_missing({}, listeners(ANY, "unix:old.sock", "unix:kept.sock"))
    where = sockets[ANY].getsockname()
    current.update({Address.parse("unix:kept.sock"): sockets[Address.parse("unix:kept.sock")]})
    release(sockets, keep=current)
    assert list(sockets) == list(current)
    assert not answers(where)
    assert os.listdir(directory) == ["kept.sock"]
    assert answers("kept.sock")


@pytest.mark.skipif(sys.platform != "linux", reason="a packet filter on the listener")
def test_nobody_new_gets_into_the_queue_of_a_released_socket_that_others_still_empty() -> None:
    """Workers share it: who is in its queue is served, and nobody comes in too late to be."""
    sockets = bind_missing({}, listeners(ANY))
    shared = sockets[ANY].dup()
    where = shared.getsockname()
    with shared, socket.create_connection(where) as early, socket.socket() as late:
        early.send(b"early")
        release(sockets, keep={})
        late.setblocking(False)
        assert late.connect_ex(where) == errno.EINPROGRESS
        with shared.accept()[0] as accepted:
            assert accepted.recv(100) == b"early"
            accepted.send(b"served")
            assert early.recv(100) == b"served"
        with pytest.raises(BlockingIOError):
            shared.accept()
        assert select.select([], [late], [], 0)[1] == []


# ---- a socket for each worker


def group(address: Address = ANY) -> list[Listener]:
    return [Listener(address=address, reuse_port=True)]


def test_with_reuse_port_there_are_as_many_sockets_as_workers_on_one_port(current: Sockets) -> None:
    current.update(bind_missing({}, group(), 3))
    assert [address.number for address in current] == [1, 2, 3]
    assert len({listener.getsockname() for listener in current.values()}) == 1
    assert len({listener.fileno() for listener in current.values()}) == 3


def test_those_of_a_group_take_no_clients_before_it_begins(current: Sockets) -> None:
    current.update(bind_missing({}, group(), 2))
    where = next(iter(current.values())).getsockname()
    assert not answers(where)
    begin(current, group())
    assert answers(where)


def test_a_group_grows_and_never_shrinks_and_what_is_there_is_kept(current: Sockets) -> None:
    current.update(bind_missing({}, group(), 2))
    grown = bind_missing(current, group(), 3)
    assert len(grown) == 3
    assert all(grown[address] is listener for address, listener in current.items())
    assert bind_missing(grown, group(), 1) == grown
    release(grown, keep=current)
    assert len(grown) == 2
    assert all(listener.fileno() >= 0 for listener in current.values())


@pytest.mark.parametrize(
    ("workers", "sockets"), [(1, [5]), (2, [3, 2]), (3, [2, 2, 1]), (5, [1] * 5), (6, [1] * 5 + [0])]
)
def test_every_socket_of_a_group_is_somebodys(current: Sockets, workers: int, sockets: list[int]) -> None:
    current.update(bind_missing({}, group(), 5))
    shares = [worker_sockets(current, position, workers) for position in range(workers)]
    assert [len(share) for share in shares] == sockets
    assert set().union(*shares) == current.keys()


def test_a_shared_socket_is_everybodys(current: Sockets) -> None:
    current.update(bind_missing({}, listeners(ANY)))
    assert worker_sockets(current, 0, 2) == worker_sockets(current, 1, 2) == current


def test_a_socket_becomes_the_first_of_a_group_and_back(taken: Address, current: Sockets) -> None:
    address = Address("tcp", "127.0.0.1", free_port())
    current.update(bind_missing({}, listeners(address)))
    one = current[address]
    several = bind_missing(current, group(address), 2)
    assert several[address.numbered(1)] is one
    release(current, keep=several)
    begin(several, group(address))
    current.update(bind_missing(several, listeners(address)))
    assert list(current.values()) == [one]
    release(several, keep=current)
    assert answers(one.getsockname())


def test_a_group_that_cannot_be_bound_leaves_nothing_behind(taken: Address) -> None:
    with pytest.raises(StartError, match="something listens there already"):
        bind_missing({}, group(taken), 3)
