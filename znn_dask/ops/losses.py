"""The names of losses: ``"square"``, ``"square_square(0.2)"``, ``"malis"``. No arithmetic."""

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from znn_dask.errors import ParameterError, nearest
from znn_dask.geometry import Triple

Target: TypeAlias = Literal["values", "classes", "segments"]

# The order of `enum LossKind` in kernels/table.hpp, then those that are more than a sum over voxels.
LOSSES = ("square", "logistic", "softmax", "square_square", "dice", "malis", "malis_constrained")
_DEFAULTS = {"square_square": (0.2,), "dice": (1.0,)}
_TARGETS: dict[str, Target] = {"softmax": "classes", "malis": "segments", "malis_constrained": "segments"}
_ACTIVATIONS = {"softmax": "softmax"} | dict.fromkeys(("logistic", "dice", "malis", "malis_constrained"), "logistic")
_FORM = re.compile(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", re.ASCII)


@dataclass(frozen=True)
class Loss:
    """A loss and its numbers.

    Attributes
    ----------
    kind : str
        One of `LOSSES`.
    numbers : tuple of float
        The margin of square_square, what smooths dice, the offsets (z, y, x of each channel) of MALIS.
    """

    kind: str
    numbers: tuple[float, ...] = ()

    @property
    def target(self) -> Target:
        """What a target holds: a value per channel, the class of each voxel, or the segment of each voxel."""
        return _TARGETS.get(self.kind, "values")

    @property
    def activation(self) -> str | None:
        """What makes probabilities of outputs: "logistic", "softmax", or nothing."""
        return _ACTIVATIONS.get(self.kind)

    def offsets(self, channels: int) -> list[Triple]:
        """Return from which neighbour to the voxel each channel of MALIS goes.

        Raises
        ------
        ParameterError
            If there is not one for each channel.
        """
        given = [int(n) for n in self.numbers]
        found = [(given[at], given[at + 1], given[at + 2]) for at in range(0, len(given), 3)]
        if not found and channels in (2, 3):
            found = [(0, 0, -1), (0, -1, 0), (-1, 0, 0)][:channels]
        if len(found) != channels:
            had = f"it names {len(found)}" if found else "without offsets it is of 3 (x, y, z) or 2 (x, y)"
            raise ParameterError(
                f"loss {self.kind!r} needs an offset for each of the output's {channels} channels, but {had}; "
                f"write {self.kind}(z,y,x, z,y,x, ...)"
            )
        return found


@lru_cache
def parse_loss(text: str) -> Loss:
    """Return the loss that a text such as ``"square_square(0.2)"`` names.

    Raises
    ------
    ParameterError
        If there is no such loss, or its numbers are none that it can have.
    """
    form = _FORM.fullmatch(text) if isinstance(text, str) else None
    kind = form.group(1) if form else text
    if form is None or kind not in LOSSES:
        raise ParameterError(
            f"loss must be one of {', '.join(LOSSES)}, got {text!r}.{nearest(str(kind), list(LOSSES))}"
        )
    given = [part.strip() for part in (form.group(2) or "").split(",") if part.strip()]
    try:
        numbers = tuple(float(part) for part in given)
    except ValueError:
        raise ParameterError(f"loss {text!r}: what is in brackets must be numbers") from None
    _check(kind, numbers, text)
    return Loss(kind, numbers or _DEFAULTS.get(kind, ()))


def _check(kind: str, numbers: tuple[float, ...], text: str) -> None:
    if kind in _DEFAULTS:
        if len(numbers) > 1 or not all(0 <= n < math.inf for n in numbers):
            raise ParameterError(f"loss {text!r}: {kind} takes one finite number of 0 or more")
    elif kind.startswith("malis"):
        offsets = [numbers[at : at + 3] for at in range(0, len(numbers), 3)]
        whole = all(abs(n) < 2**30 and n == int(n) for n in numbers)
        if len(numbers) % 3 or not whole or not all(any(offset) for offset in offsets):
            raise ParameterError(
                f"loss {text!r}: {kind} takes offsets z,y,x, one for each channel, whole numbers and none 0,0,0"
            )
    elif numbers:
        raise ParameterError(f"loss {text!r}: {kind} takes no numbers")
