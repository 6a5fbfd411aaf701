"""What the operator sees: logs and live figures.

Each log line goes to a `Sink` (sink.py), which would rather lose a line, and say so later, than hold a request up.
The error log (error_log.py) is the standard logger "prefork". The access log (access_log.py) has a path of its own:
compiled once, written once per loop turn. The scoreboard (scoreboard.py) is memory that all processes read, of which
a worker writes its own page alone (shared/memory.py); metrics.py turns it into what the status page and
`prefork status` show.
"""
