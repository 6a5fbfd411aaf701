"""What a worker counts: the words of its scoreboard slot that the connections write, each by its index.

Plain integers rather than an Enum: `board[REQUESTS] += 1` stands in the hot path.
"""

from __future__ import annotations

ACCEPTED = 0  # connections ever accepted
CONNECTIONS = 1  # connections open now
REQUESTS = 2  # requests answered, whatever the status
STATUS_CLASS = 2  # plus 1..5: answers of that class, STATUS_CLASS + status // 100
SENT = 8  # bytes of responses, heads included
TAKEOVERS = 9  # application calls that lasted so long that another thread took over the loop
QUEUED = 10  # application calls that had to wait for a thread
WIDTH = 11  # how many words these are
