"""Counter-based random numbers: the same for any order of tasks, number of workers, and after a resume.

A stream is named by what it is for, never by when it was drawn (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", 2011).
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random.bit_generator import ISeedSequence


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
    # Philox takes any ISeedSequence, but numpy's annotations know SeedSequence alone.
    return np.random.Generator(np.random.Philox(_Key(seed, step, purpose)))  # type: ignore[arg-type]


class _Key(ISeedSequence):
    """A key in the form of a seed. Beside a plain key numpy asks the system for random numbers, which takes longer."""

    def __init__(self, seed: int, step: int, purpose: str) -> None:
        self._words = np.frombuffer(_digest(seed, step, purpose), "<u8")

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> npt.NDArray[Any]:
        """Return the key, which is what Philox asks for."""
        assert n_words == len(self._words)
        return self._words.astype(dtype)


def key64(seed: int, step: int, purpose: str) -> int:
    """Return 64 bits that name the stream, for kernels that run Philox themselves."""
    return int.from_bytes(_digest(seed, step, purpose)[:8], "little")


def _digest(seed: int, step: int, purpose: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{step}/{purpose}".encode(), digest_size=16).digest()
