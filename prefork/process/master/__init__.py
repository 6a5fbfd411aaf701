"""The master: binds, obeys signals and commands, and replaces one pool of workers by the next."""
