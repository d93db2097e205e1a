"""PyTorch logs everything that it records if somebody listens, as pytest does; that takes most of the time."""

import logging

import pytest


@pytest.fixture(autouse=True)
def without_traces():
    """Keep PyTorch's traces from pytest."""
    logger = logging.getLogger("torch.__trace")
    before = logger.propagate, logger.level
    logger.propagate = False
    logger.setLevel(logging.CRITICAL)
    yield
    logger.propagate = before[0]
    logger.setLevel(before[1])
