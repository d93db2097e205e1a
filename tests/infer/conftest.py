"""A small model and a volume for predictions from file to file."""

import numpy as np
import pytest
from infer_cases import NET, SAME, VOLUME

import znn_dask as znn
from znn_dask.model.predictor import close_all


@pytest.fixture(scope="session")
def model():
    with znn.Model(NET, 4, tune=False, num_workers=1, loss="softmax", seed=1) as model:
        yield model
    close_all()


@pytest.fixture(scope="session")
def same():
    """A padded network."""
    with znn.Model(SAME, 4, tune=False, num_workers=1, seed=1) as model:
        yield model


@pytest.fixture
def source(tmp_path):
    np.save(tmp_path / "in.npy", VOLUME)
    return tmp_path / "in.npy"
