"""Images to comparable values, the same way in training and prediction."""

from typing import Literal

import numpy as np


def preprocess(image: np.ndarray, method: Literal["section", "volume", "none"]) -> np.ndarray:
    """Give every section or the whole volume mean 0 and standard deviation 1, channel by channel.

    Parameters
    ----------
    image : float32 array of shape (channel, z, y, x)
    method : "section", "volume" or "none"
        ``"none"`` leaves the values as they are stored.

    Returns
    -------
    float32 array of shape (channel, z, y, x)
        What is constant becomes 0.
    """
    if method == "none":
        return image
    axes = (2, 3) if method == "section" else (1, 2, 3)
    mean = image.mean(axis=axes, keepdims=True, dtype=np.float64)
    deviation = image.std(axis=axes, keepdims=True, dtype=np.float64)
    deviation[deviation == 0] = 1.0
    result: np.ndarray = ((image - mean) / deviation).astype(np.float32)
    return result
