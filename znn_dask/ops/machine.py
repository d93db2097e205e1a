"""What the kernels are: the instruction set they run with, and which build of them."""

import hashlib
from functools import cache
from pathlib import Path

from znn_dask import _kernels


def instruction_set() -> str:
    """Return the name of the instruction set that was chosen at start."""
    return _kernels.isa()


@cache
def kernels_digest() -> str:
    """Return a digest of the compiled kernels: another build may run at another speed."""
    return hashlib.sha256(Path(str(_kernels.__file__)).read_bytes()).hexdigest()[:16]
