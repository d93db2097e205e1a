"""Images to comparable values, the same way in training and prediction."""

from typing import Literal, TypeAlias

import numpy as np

Method: TypeAlias = Literal["section", "volume", "rescale", "none"]
# What ZNN's job files call them.
ZNN_METHODS: dict[str, Method] = {
    "standard2D": "section",
    "standard3D": "volume",
    "symetric_rescale": "rescale",
    "none": "none",
}


def preprocess(image: np.ndarray, method: Method) -> np.ndarray:
    """Give every section or the whole volume mean 0 and standard deviation 1, channel by channel.

    Parameters
    ----------
    image : float32 array of shape (channel, z, y, x)
    method : "section", "volume", "rescale" or "none"
        ``"rescale"`` makes the least value of the volume -1 and the greatest 1; ``"none"`` leaves the values as they
        are stored.

    Returns
    -------
    float32 array of shape (channel, z, y, x)
        What is constant becomes 0.
    """
    if method == "none":
        return image
    if method == "rescale":
        low = image.min(axis=(1, 2, 3), keepdims=True).astype(np.float64)
        half = (image.max(axis=(1, 2, 3), keepdims=True) - low) / 2
        rescaled: np.ndarray = np.where(half > 0, (image - low) / np.where(half > 0, half, 1) - 1, 0)
        return rescaled.astype(np.float32)
    axes = (2, 3) if method == "section" else (1, 2, 3)
    mean = image.mean(axis=axes, keepdims=True, dtype=np.float64)
    deviation = image.std(axis=axes, keepdims=True, dtype=np.float64)
    deviation[deviation == 0] = 1.0
    result: np.ndarray = ((image - mean) / deviation).astype(np.float32)
    return result
