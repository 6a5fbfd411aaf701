"""How many connections there are descriptors for. Owns the limit on the descriptors of a worker."""

from __future__ import annotations

import resource

from prefork.logger import log
from prefork.settings.wording import MORE_DESCRIPTORS, counted


def affordable_connections(connections: int, watchable: int | None, reserve: int) -> int:
    """How many of the wanted `connections` there are descriptors for. The soft limit is raised where that helps, up to
    two descriptors for each connection: a body of a request or a response may be a file.

    `watchable` is how many descriptors the poller can watch, None where that is not bounded. Where it is bounded, no
    connection has a second descriptor: files would use up numbers that the poller can watch. `reserve` descriptors are
    kept for what is not a connection.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if watchable is not None:
        connections = min(connections, watchable - reserve)
    wanted = connections + reserve
    generous = wanted + connections if watchable is None else wanted
    if soft != resource.RLIM_INFINITY and soft < generous:
        raised = generous if hard == resource.RLIM_INFINITY else min(generous, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
        if raised < wanted:
            connections = max(1, raised - reserve)
            words = "at most %s at once, as only %d descriptors are allowed; %s"
            log.warning(words, counted(connections, "connection"), hard, MORE_DESCRIPTORS)
    return connections
