"""Who lives and who dies: the master, its workers, and the signals between them.

    signal      master                                                  worker
    HUP         reload; what does not boot is rolled back               ignored
    QUIT, TERM  finish what is under way, then stop; a second is fast   drain
    INT         stop, and wait for no request; a second one kills       leave, and wait for no request
    USR1        reopen the log files                                    reopen the log files
    USR2        upgrade: a new master takes over, or nothing changes    write all stacks to the error log
    WINCH       drain the workers, keep the master; not in a terminal       -
    TTIN, TTOU  one worker more, one less                               ignored
    CHLD        reap, and replace who died                              -

A signal's way is one straight line: wakeup descriptor -> signals.MASTER[number] -> master.obey(command). The master's
own orders reach a worker without a signal, by the line between them and a thread of the worker's
(worker/diagnostics.py), so that it obeys whatever its application does to signals. The master imports no application
code; a worker that sees the master gone drains by itself.
"""
