"""The worker: a forked process that serves clients, and reports to the master."""
