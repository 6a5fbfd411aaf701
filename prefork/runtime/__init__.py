"""The select event loop, and the threads that run it.

A coroutine runs until it must wait, and says for what: a descriptor, an instant, a wake-up. The loop runs the others
meanwhile. Tasks use no futures and no callbacks; only other threads reach the loop by callbacks (callbacks.py). Workers
and master run the same loop. It is built on the standard `select` module alone, and knows nothing of sockets or HTTP.

How the threads of the pool keep out of each other's way (threads.py, where the names stand):

The loop's state needs no lock: only the leader touches it, and there is one leader at any time.

- A deque's `append` and `pop` are atomic: of two threads that pop its one entry, one gets it. So for each bracket
  exactly one of `leave` and `depose` finds the entry: leadership stays or goes, never both. Each thread has a token of
  its own, or a former leader's `leave` would find the entry of the thread that leads by then.
- While the entry lies in the token, the leader is inside the bracket, in code that knows nothing of the loop. A thread
  that takes the entry out may touch the loop in the leader's place. It hands the loop to one follower by releasing that
  one's lock, once.
- A thread whose `leave` fails has no way back into the loop's frames but `rejoin` and `produce`, which suspend the task
  by a Handover. The loop answers that by Deposed, before it touches anything, and Deposed unwinds the thread to
  `_lead`. Only then, when the task's coroutine runs no more, does a callback hand the task to the new leader.
- Another thread that has something for the leader adds a callback (callbacks.py).
- The leader enters a bracket only while a follower stands by, and only the thread that has the loop uses followers up:
  so there is one to promote. A thread that is done with its work says so by a callback, in which the leader takes it
  back among the followers.
- A call that is known to wait, or for which no follower stands by, becomes a Job in a queue. All threads but the leader
  work off the queue. A deque's `popleft` and `remove` are atomic: one thread begins a job, or the leader withdraws it.
  A thread that finds no job left says by a callback that it rests. The leader alone appends jobs, and sends that thread
  back to work if there are some by then: so no job is forgotten while a thread rests.
- Where one call is made at a time, the main thread makes it, as applications' signal handlers and alarms want it. While
  another thread leads, it has no follower, so calls are jobs, which the main thread alone works off. When none is left,
  the other thread gives the loop back to the main one at the end of that turn.
- A thread can do without its task before its call is over, while its frames still hold the coroutine: the leader lets
  the task go on by another coroutine (`detach`). The former coroutine is kept with the call. So the leader ends it,
  once the thread has said that it is done; else it would end in that thread, as its last reference goes. Where the
  outcome was there before the thread lost the loop (Ending), the thread that takes the entry out does the same.
- The record of calls (calls.py) works likewise. The thread that takes the entry out notes the former leader's call, and
  a thread that begins a job notes its own. The note is removed when the thread is done. While the leader runs the
  loop, it is in no call: so the calls noted are all there are, and the bracket itself notes nothing.
"""
