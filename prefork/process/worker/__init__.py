"""The worker: a forked process that serves clients, and reports to the master.

worker.py puts it together: the loop, the pool of threads, the signals, the handlers. It boots, serves, may stand by
while another generation is tried out, and leaves by a drain (drain.py), in which requests are finished first. Orders
come by the channel to the master, and a thread hears them whatever the loop is in (diagnostics.py). A client is
accepted where this worker has no more than its share (accept_balance.py) and has room (reserve.py); greeting.py begins
the conversation. Before any application is imported, app_environment.py drops root's privileges (privileges.py).
"""
