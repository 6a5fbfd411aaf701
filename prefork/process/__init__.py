"""Processes: the master, its template, its workers, and the signals and lines between them (../ARCHITECTURE.md).

    signal      master                                                  worker
    HUP         reload; what does not boot is rolled back               ignored
    QUIT, TERM  finish what is under way, then stop; a second is fast   drain
    INT         stop, and wait for no request; a second one kills       leave, and wait for no request
    USR1        reopen the log files                                    reopen the log files
    USR2        upgrade: a new master takes over, or nothing changes    write all stacks to the error log
    WINCH       drain the workers, keep the master; not in a terminal   -
    TTIN, TTOU  one worker more, one less                               ignored
    CHLD        reap, and replace who died                              -
    ORDERED     -                                                       obey the last order; end, if it boots

"-" stands for a signal that the process does not handle. ORDERED (signals.py) is a real-time signal on Linux and USR2
elsewhere. A signal takes one straight way: wakeup descriptor -> Signals.next, which looks the number up in
signals.MASTER -> Master._obey_signals. In a worker it is signals.WORKER and Worker._obey. The stacks for USR2 are
faulthandler's work (Logs.catch_crashes).

An order of the master reaches a worker without a signal: it comes by the channel between the two, where a thread of the
worker's reads it (worker/diagnostics.py) and notes ORDERED. So the worker obeys whatever its application does to
signals. ORDERED itself is sent only to a child without clients, to end it (Child.see_end): one that boots, one of a
generation that fails, a template. The master imports no application code; a worker that sees the master gone drains by
itself.
"""
