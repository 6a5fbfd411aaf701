"""Observation: the logs and the live figures that the operator sees.

Each log line goes to a `Sink` (sink.py), which loses a line, and says so later, rather than hold a request up. The
error log (error_log.py) takes the messages of prefork's logger (logger.py). The access log (access_log.py) has a path
of its own: its format is compiled once, and a thread writes its lines, many at a time. The scoreboard
(shared/scoreboard.py) is memory that all processes read, and of which a worker can write its own page alone
(shared/memory.py). metrics.py turns it into the figures that the status page and `prefork status` show.
"""
