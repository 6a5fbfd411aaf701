"""Memory that all processes of a server share: the numbers that workers and master write there. Owns who may write.

The scoreboard (scoreboard.py) lies in two pieces of memory (memory.py): a roster, which the master alone writes, and
pages, one for each worker, which that worker alone writes. So a worker that an application has spoiled can lie about
itself only, and readers believe no more than can be true. counters.py gives the words of a page their names, and
activity.py counts the connections that are busy.
"""
