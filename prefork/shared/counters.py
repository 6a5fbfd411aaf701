"""Counters: the words of a worker's scoreboard slot that count its work, each by its index. Owns their order.

Plain integers rather than an Enum: `board[REQUESTS] += 1` stands in the hot path.
"""

from __future__ import annotations

ACCEPTED = 0  # connections ever accepted
CONNECTIONS = 1  # connections open now
REQUESTS = 2  # requests answered, whatever the status
STATUS_CLASS = 2  # plus 1..5: answers of that class, see `status_class`
SENT = 8  # bytes of responses, heads included
CALLS = 9  # the first of four words that count calls of WSGI applications (runtime/threads.py)
FULL_SINCE = 13  # monotonic milliseconds since when no thread has been free; 0: one is. Follows those four
REPEATS = 14  # requests answered like the same request within the second, without asking the handler
FILE_HITS = 15  # files found in the file cache, and not changed since
FILE_MISSES = 16  # files that had to be opened
FILE_EVICTIONS = 17  # files that were put out of the cache to make room
ACCESS_LOST = 18  # lines that could not be written to the access log
ERROR_LOST = 19  # and to the error log
BUSY = 20  # connections that are busy: this and the next two are for `activity.busy`
BUSY_BEFORE = 21
BUSY_UNTIL = 22
WIDTH = 23  # how many words these are
GAUGES = frozenset(
    (CONNECTIONS, FULL_SINCE, BUSY, BUSY_BEFORE, BUSY_UNTIL)
)  # these tell what is there now; all others count for ever


def status_class(status: int) -> int:
    """The index of the word that counts answers of this status, 100 to 999: from 600 on as 5xx (RFC 9110 §15)."""
    return STATUS_CLASS + min(status // 100, 5)
