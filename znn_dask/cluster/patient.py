"""Loaded by the worker processes that a command starts: Ctrl-C is for the command, which then ends them.

A terminal sends Ctrl-C to every process that was started from it.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)
