"""Plans of mixed passes compute what every other plan computes: loss and gradients against the plain reference."""

from collections import Counter
from itertools import product

import msgspec
import numpy as np
import pytest
import reference_network as plain
from dask.utils import key_split
from model_cases import FLAT, FLAT_SIZE, NET, SEVERAL, SEVERAL_SIZE, SIZE, max_filter_branches

import znn_dask as znn
from znn_dask.lower import Options, lower_step, make_plan
from znn_dask.lower.parameters import initial_parameters
from znn_dask.lower.plan import ConvolutionPlan, check_plan
from znn_dask.lower.step import StepOptions
from znn_dask.model.core import Core
from znn_dask.model.samples import Batch

pytestmark = pytest.mark.timeout(100)

MIXED = [kinds for kinds in product(("direct", "fft"), repeat=3) if len(set(kinds)) > 1]
NETS = {
    "chain": (NET, {"output": SIZE}),
    "2d": (FLAT, {"output": FLAT_SIZE}),
    "several": (SEVERAL, SEVERAL_SIZE),
    "meeting": (max_filter_branches(), {"output": (3, 4, 5)}),
}


def mixed(net, sizes, kinds, granularity):
    """Return a plan that gives every convolution these algorithms, on the tiles of the spectral plan."""
    plan = make_plan(net, sizes, 2, Options("fft", granularity, 2))
    convolutions = {name: ConvolutionPlan(*kinds, c.tile, c.backend) for name, c in plan.convolutions.items()}
    plan = msgspec.structs.replace(plan, convolutions=convolutions)
    check_plan(net, plan)
    return plan


def made(kinds):
    """Return how many spectra of each kind the step of a mixed plan of NET makes, and its graph."""
    plan = mixed(NET, {"output": SIZE}, kinds, "node")
    graph = lower_step(NET, plan, StepOptions("square"), "0000beef")
    found = Counter(key_split(key) for key in graph.dask)
    return found["fft-image"], found["backward-fft-image"], found["fft-gradient"], graph


def test_only_the_spectra_that_a_pass_needs_are_made():
    all_images, none, all_gradients, _ = made(("fft", "fft", "fft"))
    assert min(all_images, all_gradients) > none == 0
    assert made(("fft", "direct", "direct"))[:3] == (all_images, 0, 0)
    images, late, gradients, _ = made(("direct", "fft", "direct"))
    assert (images, late) == (0, 0)
    assert 0 < gradients < all_gradients, "nobody wants the gradient of the input"
    assert made(("direct", "direct", "fft"))[:3] == (0, all_images, all_gradients)
    assert made(("direct", "direct", "direct"))[:3] == (0, 0, 0)


def test_an_image_is_transformed_for_its_gradient_only_when_that_arrives():
    *_, graph = made(("direct", "fft", "fft"))
    late = [key for key in graph.dask if key_split(key) == "backward-fft-image"]
    for key in late:
        assert any(key_split(name) == "fft-gradient" for name in graph.dask[key].dependencies)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("kinds", MIXED)
def test_passes_may_use_different_algorithms(name, kinds):
    net, sizes = NETS[name]
    rng = np.random.default_rng(1)
    images, targets, _ = plain.random_sample(net, sizes, "square", rng, 2)
    parameters = initial_parameters(net, 4)
    result = plain.run(net, parameters, images, targets)
    expected_loss, expected = result.loss, result.gradients
    for granularity in ("node", "edge"):
        plan = mixed(net, sizes, kinds, granularity)
        core = Core(net, plan, Options(), "square", znn.SGD(), 0, 2, "locality")
        core.start(parameters)
        loss, found = core.gradients(Batch(images, targets, {}, 2, False))
        core.scheduler.close()
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        for parameter, values in expected.items():
            np.testing.assert_allclose(found[parameter], values, atol=2e-5 * np.abs(values).max())
