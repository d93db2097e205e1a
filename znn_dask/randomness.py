"""Counter-based random numbers: the same for any order of tasks, number of workers, and after a resume.

A stream is named by what it is for, never by when it was drawn (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", 2011).
"""

import hashlib

import numpy as np


def generator(seed: int, step: int, purpose: str) -> np.random.Generator:
    """Return the random numbers of one purpose in one step.

    Parameters
    ----------
    seed : int
        Of the run.
    step : int
        The number of updates made before; 0 for what happens once.
    purpose : str
        For instance ``"sample"`` or ``"conv1/kernel"``. Different purposes are independent.
    """
    return np.random.Generator(np.random.Philox(key=_key(seed, step, purpose)))


def key64(seed: int, step: int, purpose: str) -> int:
    """Return 64 bits that name the stream, for kernels that run Philox themselves."""
    return _key(seed, step, purpose) & 0xFFFF_FFFF_FFFF_FFFF


def _key(seed: int, step: int, purpose: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=16).digest()
    return int.from_bytes(digest, "little")
