"""The master: binds, obeys signals and commands, and replaces one pool of workers by the next.

master.py makes one change at a time, in the order in which they were asked for (operations.py): by a signal, by a
command (control.py, commands.py), or as a file has changed (watch.py). A reload (reload.py) has its steps in one place,
each with the way back. upgrade.py hands the sockets to a new master. The files that tell others where the server is are
made and locked in pid_file.py, runtime_directory.py and endpoints.py; status.py says what goes on.
"""
