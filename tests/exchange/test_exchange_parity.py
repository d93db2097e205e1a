"""Random networks and those of the zoo in a `Model`, in PyTorch, and there and back."""

import pytest
from exchange_zoo import LARGE, SMALL

from znn_dask.net import zoo

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from exchange_strategies import networks  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from parity import assert_parity  # noqa: E402

pytestmark = pytest.mark.timeout(280)
WAYS = [{}, {"convolution": "fft", "granularity": "edge", "block": 2}, {"convolution": "direct", "block": 3}]


@given(networks(), st.integers(0, 2**32 - 1), st.sampled_from(WAYS), st.integers(1, 2))
def test_random_networks_compute_what_pytorch_does(case, seed, way, batch):
    net, size = case
    assert len(net.edges) <= 12
    assert_parity(net, size, seed, batch, **way)


def test_every_network_of_the_zoo_is_tried():
    assert {name.partition(" ")[0] for name in (*SMALL, *LARGE)} == set(zoo.names())


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_the_zoo_computes_what_pytorch_does(name):
    make, size = {**SMALL, **LARGE}[name]
    assert_parity(make(), size, **({"near": 0.0} if name in LARGE else {}))
