"""From what a network computes to what is kept of it: probabilities, some channels, numbers of fewer bits."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import ParameterError
from znn_dask.model.losses import Losses
from znn_dask.ops.losses import parse_loss

ACTIVATIONS = ("logistic", "softmax")
TYPES = ("float32", "float16", "uint8", "uint16")


@dataclass(frozen=True)
class Finish:
    """What is done with the outputs of a network.

    Attributes
    ----------
    activation : "logistic", "softmax" or None
    channels : tuple of int, or None for all
        Chosen after the softmax, which is over all.
    dtype : "float32" | "float16" | "uint8" | "uint16"
        Values from 0 to 1 become 0 to 255 or 65535, rounded; what lies outside is cut off.
    """

    activation: str | None = None
    channels: tuple[int, ...] | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.activation is not None and self.activation not in ACTIVATIONS:
            raise ParameterError(f"activation must be one of {', '.join(ACTIVATIONS)} or None, got {self.activation!r}")
        if self.dtype not in TYPES:
            raise ParameterError(f"dtype must be one of {', '.join(TYPES)}, got {self.dtype!r}")

    @staticmethod
    def of(loss: Losses, probabilities: bool, channels: Iterable[int] | None, dtype: str) -> "Finish":
        """Return what is done after a loss: the probabilities that belong to it, or nothing."""
        chosen = None if channels is None else tuple(channels)
        return Finish(activation_of(loss) if probabilities else None, chosen, dtype)

    def count(self, channels: int) -> int:
        """Return how many of some channels are kept.

        Raises
        ------
        ParameterError
            If one is chosen that there is not.
        """
        if self.channels is None:
            return channels
        wrong = [c for c in self.channels if not 0 <= c < channels]
        if wrong or not self.channels:
            raise ParameterError(
                f"channels must be numbers from 0 to {channels - 1}, of the {channels} that the network gives, "
                f"got {', '.join(map(str, self.channels)) or 'none'}"
            )
        return len(self.channels)

    def __call__(self, values: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Return values of shape (channel, z, y, x) as they are to be kept."""
        result: npt.NDArray[Any] = activated(values, self.activation)
        if self.channels is not None:
            result = result[list(self.channels)]
        if self.dtype in ("uint8", "uint16"):
            top = np.iinfo(self.dtype).max
            result = np.rint(np.clip(result, 0.0, 1.0) * np.float32(top))
        return result.astype(self.dtype, copy=False)


def activated(values: npt.NDArray[np.float32], activation: str | None) -> npt.NDArray[np.float32]:
    """Return probabilities of outputs (..., channel, z, y, x): the logistic function, or a softmax over channels."""
    if activation == "logistic":
        # Through tanh, which neither overflows nor warns.
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * values), np.float32)
    if activation == "softmax":
        shifted = np.exp(values - values.max(axis=-4, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=-4, keepdims=True), np.float32)
    return values


def activation_of(loss: Losses) -> str | None:
    """Return what makes probabilities of outputs that were trained with a loss.

    Raises
    ------
    ParameterError
        If several outputs were trained with losses that need different functions.
    """
    texts = [loss] if isinstance(loss, str) else [text for text, _ in loss.values()]
    found = {parse_loss(text).activation for text in texts}
    if len(found) > 1:
        raise ParameterError(
            f"the outputs were trained with the losses {', '.join(texts)}, which make probabilities in different ways; "
            "predict without probabilities"
        )
    return found.pop()
