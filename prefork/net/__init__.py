"""Sockets: listeners and connected streams, non-blocking, on the runtime's loop. They know no protocol.

listen.py binds, keeps and closes the listeners, accept.py accepts clients, and a Stream (stream.py) is the only door to
a connected socket: nothing above it sees a descriptor. Root changes files by name only where it made or owns them:
file_paths.py walks to a place without trusting the links on the way, and socket_file.py and permissions.py know a
socket's file by its inode.
"""
