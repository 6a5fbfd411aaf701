"""The worker: a forked process that serves, and what it says of itself."""
