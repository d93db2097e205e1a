"""The first Ctrl-C or SIGTERM lets a run end as it should; the second acts at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def first_signal(tell: Callable[[int], None]) -> Iterator[None]:
    """While the block runs, tell the number of the first SIGINT or SIGTERM; a second one acts as usual."""

    def stop(number: int, frame: FrameType | None) -> None:
        tell(number)
        for name, handler in before.items():
            signal.signal(name, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, stop)
    except ValueError:  # not in the main thread, where signals do not arrive either
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
