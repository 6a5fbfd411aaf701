"""The select event loop, and the threads that run it.

A coroutine runs until it must wait, and says for what: a descriptor, an instant, a wake-up. The loop runs the others
meanwhile. Tasks use no futures and no callbacks; only other threads reach the loop by callbacks (callbacks.py). Workers
and master run the same loop. It is built on the standard `select` module alone, and knows nothing of sockets or HTTP.
"""
