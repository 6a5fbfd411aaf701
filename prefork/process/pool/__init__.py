"""The pool: the workers of one configuration, from fork to exit status, and the template that they are copies of.

A Generation (generation.py) has a position for each worker, and supervision.py keeps a living worker in each: it forks
one, waits until that is ready, and forks another when it has ended, as often as respawn.py allows. children.py forks
and reaps, and child.py is one child as its parent sees it. With `preload`, a template (template.py) imports the
application once, and workers are copies of it. watchdog.py finds workers that are stuck, and exit_status.py says in
words how one has ended.
"""
