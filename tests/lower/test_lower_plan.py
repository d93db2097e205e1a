"""Plans and arrangements: what is chosen, that it is written down whole, and that no voxel is lost."""

import msgspec
import numpy as np
import pytest
import reference_network as plain
from lower_cases import MODES, NETS, TOKEN, plan_of

import znn_dask as znn
from znn_dask.lower import Options, Plan, arrange, lower_forward, make_plan
from znn_dask.lower.parameters import initial_parameters, to_blocks, to_public
from znn_dask.lower.plan import rounded_output
from znn_dask.net import Convolution, Edge, MaxFilter, Network
from znn_dask.ops.fft import ESTIMATE

pytestmark = pytest.mark.timeout(60)

EVERY = [(name, mode) for name in NETS for mode in MODES]


@pytest.mark.parametrize(("name", "mode"), EVERY)
def test_a_plan_survives_text(name, mode):
    _, plan = plan_of(name, 3, **mode)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert all(type(size) is tuple for size in again.output_size.values())
    assert all(type(widths) is tuple for widths in again.blocks.values())
    assert again.to_json() == plan.to_json()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"batch": "three"}', "nonsense"])
def test_text_that_is_no_plan_is_refused(text):
    with pytest.raises(msgspec.DecodeError):
        Plan.from_json(text)


@pytest.mark.parametrize("mode", MODES)
def test_plans_do_not_depend_on_the_workers(mode):
    net, sizes = NETS["chain"]
    plans = []
    for num_workers in (1, 2, 8):
        with znn.Model(net, sizes, num_workers=num_workers, **mode) as model:
            plans.append(model.plan.plan)
    assert plans[0] == plans[1] == plans[2] == plan_of("chain", **mode)[1]


@pytest.mark.parametrize("batch", [1, 3, 17])
@pytest.mark.parametrize("name", NETS)
def test_every_voxel_is_kept_once(name, batch):
    net, plan = plan_of(name, batch, block=2)
    dense = net.node_sizes(rounded_output(net, plan.output_size))
    for node, arrangement in arrange(net, plan).items():
        count = np.zeros((batch, net.nodes[node].channels, *dense[node]), int)
        for group in arrangement.groups:
            for entry in group:
                places = [
                    first + step * np.arange(n)
                    for first, step, n in zip(entry[1:], arrangement.sparsity, arrangement.size, strict=True)
                ]
                for first, stop in arrangement.blocks:
                    count[(entry.example, slice(first, stop), *np.ix_(*places))] += 1
        assert (count == 1).all(), node
        assert arrangement.dense_size == dense[node]


@pytest.mark.parametrize(("name", "mode"), EVERY)
def test_parameters_in_blocks_and_back(name, mode):
    net, plan = plan_of(name, **mode)
    public = initial_parameters(net, 5)
    blocks = to_blocks(net, plan, public)
    again = to_public(net, plan, blocks)
    assert list(again) == list(net.parameters)
    for parameter, values in public.items():
        np.testing.assert_array_equal(again[parameter], values)


@pytest.mark.parametrize("mode", MODES)
def test_blocks_are_arrays_of_their_own(mode):
    net, plan = plan_of("chain", **mode)
    public = initial_parameters(net, 5)
    blocks = to_blocks(net, plan, public)
    assert not any(np.shares_memory(block, values) for block in blocks.values() for values in public.values())


# --- sizes ---


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 2, 3), (3, 4, 5), (5, 7, 6)])
@pytest.mark.parametrize("name", ["chain", "2d strides", "uneven strides", "meeting"])
def test_odd_sizes_are_rounded_up_and_cropped(name, size):
    net, _ = NETS[name]
    size = (1, *size[1:]) if net.ndim == 2 else size
    plan = make_plan(net, {"output": size}, 2, Options(block=2))
    graph = lower_forward(net, plan, TOKEN)
    rng = np.random.default_rng(0)
    parameters = plain.random_parameters(net, rng)
    x = rng.standard_normal((2, net.inputs["input"], *net.input_size(size))).astype(np.float32)
    blocks = to_blocks(net, plan, parameters)
    values = {key: blocks.get(name, x) for name, key in graph.inputs.items() if name != "wisdom"}
    if "wisdom" in graph.inputs:
        values[graph.inputs["wisdom"]] = ESTIMATE
    (found,) = znn.get({**graph.dask, **values}, list(graph.outputs.values()), num_workers=2)
    expected = plain.run(net, parameters, {"input": x}).outputs["output"]
    assert found.shape == expected.shape == (2, net.outputs["output"], *size)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


# The shorter branch is dense, the longer one has fragments: its odd output is rounded up.
TWO_LATTICES = Network(
    {"input": 1, "h": 2, "f": 2, "coarse": 2, "fine": 2},
    [
        Edge("c1", "input", "h", Convolution((1, 2, 2))),
        Edge("m", "h", "f", MaxFilter((1, 2, 2), (1, 2, 2))),
        Edge("c2", "f", "coarse", Convolution((1, 2, 2))),
        Edge("c3", "h", "fine", Convolution((1, 2, 2))),
    ],
)


@pytest.mark.parametrize("n", [3, 4])
def test_outputs_of_different_sparsity(n):
    sizes = {"coarse": (1, n, n), "fine": (1, n + 2, n + 2)}
    assert TWO_LATTICES.node_sizes(sizes)["input"] == (1, n + 4, n + 4)
    rng = np.random.default_rng(0)
    parameters = plain.random_parameters(TWO_LATTICES, rng)
    x = rng.standard_normal((1, 1, 1, n + 4, n + 4)).astype(np.float32)
    expected = plain.run(TWO_LATTICES, parameters, {"input": x}).outputs
    with znn.Model(TWO_LATTICES, sizes, num_workers=1) as model:
        model.load_parameters(parameters)
        found = model.forward(x)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)


def two_ways(first, second):
    """Two streams from one node that meet again, each a list of (window, stride) of max-filters."""
    nodes, edges = {"input": 1, "a": 2, "b": 2, "output": 1}, [Edge("c", "input", "a", Convolution((1, 2, 2)))]
    for stream, filters in (("p", first), ("q", second)):
        source = "a"
        for i, (window, stride) in enumerate(filters):
            target = "b" if i == len(filters) - 1 else f"{stream}{i}"
            nodes.setdefault(target, 2)
            edges.append(Edge(f"m{stream}{i}", source, target, MaxFilter(window, stride)))
            source = target
    return Network(nodes, [*edges, Edge("d", "b", "output", Convolution((1, 2, 2)))])


def test_streams_filtered_in_another_order_cannot_meet():
    y, x = ((1, 2, 1), (1, 2, 1)), ((1, 1, 2), (1, 1, 2))
    with pytest.raises(znn.NetworkError, match=r"edge 'mq1' .* another order .* same strides in the same order"):
        arrange(net := two_ways([x, y], [y, x]), make_plan(net, {"output": (1, 4, 4)}, 1, Options()))


@pytest.mark.parametrize(
    "streams",
    [
        ([((1, 1, 2), (1, 1, 2)), ((1, 1, 2), (1, 1, 2))], [((1, 1, 4), (1, 1, 4))]),
        ([((1, 1, 2), (1, 1, 2)), ((1, 2, 1), (1, 2, 1))], [((1, 2, 2), (1, 2, 2))]),
    ],
)
def test_whether_streams_can_meet_does_not_depend_on_the_size(streams):
    """A network that is accepted for one output size and batch is for all others."""
    net, answers = two_ways(*streams), set()
    for n, batch in ((4, 1), (4, 8), (4, 64), (40, 1), (160, 1)):
        try:
            arrange(net, make_plan(net, {"output": (1, n, n)}, batch, Options("fft")))
            answers.add("accepted")
        except znn.NetworkError:
            answers.add("refused")
    assert len(answers) == 1


# --- what a plan refuses ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"convolution": "ftt"}, "convolution must be one of auto, fft, direct, winograd, fft-stored, got 'ftt'"),
        ({"convolution": {"conv9": "fft"}}, r"'conv9', which is no convolution .* conv1, conv2.*Did you mean 'conv"),
        ({"convolution": {"conv1": "ftt"}}, "convolution must be one of"),
        ({"granularity": "voxel"}, "granularity must be one of auto, node, edge, got 'voxel'"),
        ({"block": 0}, "block must be 'auto' or a number of channels of at least 1, got 0"),
        ({"block": 2.0}, "block must be"),
        ({"block": True}, "block must be"),
        ({"block": "two"}, "block must be"),
        ({"tasks": 0}, "tasks must be an int of at least 1, got 0"),
        ({"tasks": 1.5}, "tasks must be"),
        ({"sum": "sideways"}, "sum must be one of"),
        ({"fft_backend": "cufft"}, "fft_backend must be one of"),
    ],
)
def test_options_without_meaning(options, words):
    with pytest.raises(znn.ParameterError, match=words):
        plan_of("chain", **options)


@pytest.mark.parametrize("batch", [0, -1, 1.0, True, "1"])
def test_batches_that_cannot_be(batch):
    with pytest.raises(znn.ParameterError, match="batch must be an int of at least 1"):
        plan_of("chain", batch)


def test_convolutions_by_edge():
    net, plan = plan_of("chain", convolution={"conv2": "direct", "conv3": "fft-stored"})
    assert plan.convolutions["conv2"].algorithm == "direct"
    assert plan.convolutions["conv3"].algorithm == "fft-stored"
    assert plan.convolutions["conv1"] == plan_of("chain")[1].convolutions["conv1"]
    assert set(plan.convolutions) == {name for name, edge in net.edges.items() if isinstance(edge.op, Convolution)}
