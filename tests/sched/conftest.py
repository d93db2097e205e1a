"""What tests of the scheduler share."""

import sys

import pytest


@pytest.fixture
def nervous():
    """Switch threads as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
