"""Memory that all processes of a server share: the numbers by which workers and master tell of themselves. Owns who may
write it.
"""
