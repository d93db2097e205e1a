"""BLAS keeps to one thread while several of our workers run.

Workers that each start a BLAS team of the machine's size would fight for the CPUs. Finding the libraries
takes milliseconds, so it is done once and again only after further imports; setting and restoring the
numbers takes microseconds and is done once per run, by the first of the runs that overlap and the last.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from threadpoolctl import ThreadpoolController


class _Limiter:
    """How many runs ask for the limit, and what to restore; every field belongs to the holder of `lock`."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.n_runs = 0
        self.n_modules = 0
        self.libraries: list[Any] = []
        self.before: list[tuple[Any, int]] = []

    def enter(self) -> None:
        with self.lock:
            self.n_runs += 1
            if self.n_runs > 1:
                return
            if len(sys.modules) != self.n_modules:
                self.n_modules = len(sys.modules)
                found = ThreadpoolController().lib_controllers
                self.libraries = [library for library in found if library.user_api == "blas"]
            for library in self.libraries:
                n_threads = library.get_num_threads()
                if n_threads is not None and n_threads > 1:
                    self.before.append((library, n_threads))
                    library.set_num_threads(1)

    def leave(self) -> None:
        with self.lock:
            self.n_runs -= 1
            if not self.n_runs:
                while self.before:
                    library, n_threads = self.before.pop()
                    library.set_num_threads(n_threads)

    def forget_runs(self) -> None:
        """Start anew: after a fork the child has none of the parent's runs."""
        self.lock = Lock()
        self.n_runs = 0
        for library, n_threads in self.before:
            library.set_num_threads(n_threads)
        self.before = []


_limiter = _Limiter()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_limiter.forget_runs)


@contextmanager
def one_thread_per_worker(n_workers: int) -> Iterator[None]:
    """Limit BLAS to one thread inside the block if there are several workers."""
    if n_workers < 2:
        yield
        return
    _limiter.enter()
    try:
        yield
    finally:
        _limiter.leave()
