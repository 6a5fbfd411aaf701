"""The select event loop.

A coroutine runs until it must wait, says for what (a descriptor, an instant, a wake-up), and the loop runs the others
meanwhile. There are no futures and no callbacks. Workers and master run the same loop, built on the standard `select`
module alone; it knows nothing of sockets, HTTP or processes.
"""
