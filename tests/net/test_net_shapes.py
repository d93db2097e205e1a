"""Sizes, fields of view and sparsity, against a count along the layers and against the voxels really read."""

import pytest
from hypothesis import given
from net_strategies import Case, chains, graphs, joined_graphs, sizes

from znn_dask.errors import NetworkError, ParameterError, ShapeError
from znn_dask.net import AveragePool, Convolution, Edge, MaxFilter, MaxPool, Network, Transfer, zoo

SIZES_3D = [37, 35, 34, 30, 28, 20, 12]
SIZES_2D = [241, 231, 230, 210, 208, 168, 128, 88, 48]


def net_3d(width: int = 40, out_channels: int | None = 40) -> Network:
    return Network.parse("CTMCTMCTCT", width=width, kernel=3, window=2, out_channels=out_channels)


def net_2d(width: int = 40, out_channels: int | None = 40) -> Network:
    return Network.parse("CTMCTMCTCTCTCT", width=width, kernel=11, window=2, ndim=2, out_channels=out_channels)


def voxels_read(net: Network, axis: int) -> int:
    """Follow one output voxel back through every edge, and measure how far apart the input voxels are."""
    read = {name: {0} if name in net.outputs else set() for name in net.nodes}
    for edge in reversed(net.edges.values()):
        op, step = edge.op, net.edge_sparsity(edge.name)[axis]
        window = getattr(op, "kernel", getattr(op, "window", (1, 1, 1)))[axis]
        for place in read[edge.target]:
            pools = isinstance(op, MaxPool | AveragePool)
            first = place * window if pools else place
            step = 1 if pools else step
            read[edge.source] |= {first + tap * step for tap in range(window)}
    return max(max(read[name]) - min(read[name]) + 1 for name in net.inputs)


@pytest.mark.parametrize(("net", "expected"), [(net_3d(), SIZES_3D), (net_2d(), SIZES_2D)], ids=["3d", "2d"])
def test_image_sizes_of_the_authors_networks(net, expected):
    found = [size[2] for size in net.node_sizes(expected[-1]).values()]
    assert [size for place, size in enumerate(found) if place == 0 or size != found[place - 1]] == expected
    assert net.input_size(expected[-1]) == ((1 if net.ndim == 2 else expected[0]), expected[0], expected[0])
    assert {size[0] for size in net.node_sizes(expected[-1]).values()} <= ({1} if net.ndim == 2 else set(expected))


def test_dilations_of_the_authors_networks():
    def dilations(net):
        return [net.edge_sparsity(name)[2] for name in net.edges if name.startswith("conv")]

    assert dilations(net_3d()) == [1, 2, 4, 4]
    assert dilations(net_2d()) == [1, 2, 4, 4, 4, 4]
    assert net_3d().sparsity == (4, 4, 4)
    assert net_2d().sparsity == (1, 4, 4)


@given(chains(), sizes)
def test_a_chain_agrees_with_the_count_along_its_layers(case: Case, size):
    net = case.net
    wanted = {name: case.size(depth, size) for name, depth in case.depth.items()}
    assert net.node_sizes(size) == wanted
    assert net.output_size(net.input_size(size)) == size
    assert net.field_of_view == net.input_size(1) == net.input_size((1, 1, 1))
    assert net.sparsity == case.sparsity(len(case.ops))


@given(chains())
def test_the_field_of_view_is_what_an_output_voxel_reads(case: Case):
    assert case.net.field_of_view == tuple(voxels_read(case.net, axis) for axis in range(3))


@given(graphs(), sizes)
def test_a_graph_agrees_with_the_count_along_its_layers(case: Case, size):
    net = case.net
    wanted = {name: case.size(depth, size) for name, depth in case.depth.items()}
    outputs = {name: wanted[name] for name in net.outputs}
    inputs = {name: wanted[name] for name in net.inputs}
    assert net.node_sizes(outputs) == wanted
    assert net.input_size(outputs) == (inputs if len(inputs) > 1 else next(iter(inputs.values())))
    assert net.output_size(inputs) == (outputs if len(outputs) > 1 else next(iter(outputs.values())))
    assert all(net.sparsity_of(name) == case.sparsity(depth) for name, depth in case.depth.items())
    assert str(net).splitlines()[-1].startswith("field of view")


@given(joined_graphs())
def test_sizes_forwards_are_those_backwards(net: Network):
    sizes = net._smallest_sizes()
    if sizes is not None:
        outputs = net.output_size({name: sizes[name] for name in net.inputs})
        assert outputs == (sizes[next(iter(net.outputs))] if len(net.outputs) == 1 else {n: sizes[n] for n in outputs})


def test_a_pool_divides_and_a_filter_does_not():
    pool = Network.parse("CPC", width=2, kernel=3, window=2, stride=None)
    assert pool.field_of_view == (8, 8, 8)
    assert pool.node_sizes(1) == {
        "input": (8,) * 3,
        "conv1": (6,) * 3,
        "max_pool1": (3,) * 3,
        "output": (1,) * 3,
    }
    assert pool.sparsity == (1, 1, 1)
    dense = Network.parse("CMC", width=2, kernel=3, window=2)
    assert dense.field_of_view == (8, 8, 8)
    assert dense.output_size(9) == (2, 2, 2)


def test_what_is_dense():
    dense = [Network.parse("CMC", width=2), zoo.unet3d(), zoo.unet3d(padding="valid"), zoo.rsunet(), zoo.vd2d3d()]
    assert all(net.is_dense for net in dense)
    assert not Network.parse("CPC", width=2).is_dense
    assert [net.is_valid for net in dense] == [True, False, False, False, True]


def test_a_stride_may_differ_from_its_window():
    net = Network.parse("MC", kernel=3, window=(2, 2, 2), stride=(1, 2, 3))
    assert net.edge_sparsity("conv1") == (1, 2, 3)
    assert net.field_of_view == (4, 6, 8)


def test_too_small_an_input_names_the_edge_the_rule_and_the_remedy():
    with pytest.raises(ShapeError) as error:
        net_3d().output_size((26, 26, 24))
    assert str(error.value) == (
        "edge 'conv4' needs an input of at least (9, 9, 9) voxels (z, y, x), got (9, 9, 7) from node "
        "'transfer3'. Its kernel is (3, 3, 3) at sparsity (4, 4, 4). Raise 'input' to at least (26, 26, 26)"
    )
    with pytest.raises(ShapeError, match=r"edge 'max_filter1' needs .* Its window is \(2, 2, 2\) at sparsity"):
        net_3d().output_size(3)


def test_an_input_that_does_not_divide_is_refused():
    net = Network.parse("CP", kernel=2, window=3, width=1)
    assert net.output_size(7) == (2, 2, 2)
    with pytest.raises(ShapeError, match=r"'max_pool1' needs an input that is a multiple .* got \(7, 6, 6\) voxels"):
        net.output_size((8, 7, 7))


def test_sizes_below_one_are_refused():
    with pytest.raises(ParameterError, match="output size must be at least 1"):
        net_3d().input_size(0)


def two_outputs() -> Network:
    edges = [
        Edge("conv1", "image", "near", Convolution((1, 3, 3))),
        Edge("conv2", "image", "far", Convolution((1, 5, 5))),
    ]
    return Network({"image": 1, "near": 1, "far": 1}, edges, ndim=2)


def test_several_outputs_have_sizes_of_their_own():
    net = two_outputs()
    assert net.input_size({"near": 6, "far": 4}) == (1, 8, 8)
    assert net.output_size(8) == {"near": (1, 6, 6), "far": (1, 4, 4)}
    assert net.field_of_view == (1, 5, 5)
    with pytest.raises(ShapeError, match=r"node 'image' would need \(1, 6, 6\) .* 'near' .* and \(1, 8, 8\)"):
        net.input_size(4)
    with pytest.raises(ShapeError, match="the size of output 'far' is missing"):
        net.input_size({"near": 4})
    with pytest.raises(NetworkError, match=r"no output 'nearby'\. Did you mean 'near'\?"):
        net.input_size({"nearby": 4, "far": 4})
    assert "1x3x3" in str(net)


def test_inputs_that_do_not_agree_are_refused():
    edges = [
        Edge("a", "left", "sum", Convolution((1, 1, 1))),
        Edge("b", "right", "sum", Convolution((3, 3, 3))),
    ]
    net = Network({"left": 1, "right": 2, "sum": 1}, edges)
    assert net.input_size(4) == {"left": (4, 4, 4), "right": (6, 6, 6)}
    assert net.output_size({"left": 4, "right": 6}) == (4, 4, 4)
    with pytest.raises(ShapeError, match=r"edge 'b' gives \(2, 2, 2\) .* node 'sum', where another edge gives"):
        net.output_size(4)


def test_sparsity_of_outputs_that_differ_is_a_common_multiple():
    edges = [
        Edge("m1", "image", "a", MaxFilter((2, 2, 2), (4, 2, 1))),
        Edge("m2", "image", "b", MaxFilter((2, 2, 2), (6, 2, 1))),
    ]
    assert Network({"image": 1, "a": 1, "b": 1}, edges).sparsity == (12, 2, 1)


def fork(*edges: tuple) -> Network:
    ends = {end for _, source, target, _ in edges for end in (source, target)}
    return Network(dict.fromkeys(sorted(ends), 1), [Edge(*edge) for edge in edges])


def test_paths_that_converge_need_the_same_sparsity():
    with pytest.raises(NetworkError, match=r"edges 'm1' and 'm2' converge on node 'b' with different sparsity"):
        fork(
            ("m1", "a", "b", MaxFilter((2, 2, 2), (2, 2, 2))),
            ("m2", "a", "b", MaxFilter((2, 2, 2), (1, 1, 1))),
        )


def test_paths_that_converge_need_the_same_field_of_view():
    with pytest.raises(NetworkError, match=r"from node 'a' to 'b' converge .* edge 'c1' needs \(3, 3, 3\) .* 'c2'"):
        fork(("c1", "a", "b", Convolution((3, 3, 3))), ("c2", "a", "b", Convolution((5, 5, 5))))


def test_a_pool_beside_a_convolution_fits_for_one_size_only_and_is_refused():
    # An output of 3 needs 6 voxels through either edge, every other size differs.
    with pytest.raises(NetworkError, match="converge with different sizes"):
        fork(("c", "a", "b", Convolution((4, 4, 4))), ("p", "a", "b", MaxPool((2, 2, 2))))


def test_a_pool_after_a_filter_is_refused_unless_the_filter_has_no_stride():
    with pytest.raises(NetworkError, match=r"edge 'max_pool1' is a max-pool after max-filters with a total stride"):
        Network.parse("MP", window=2)
    assert Network.parse("MP", window=2, stride=1).field_of_view == (3, 3, 3)


def test_a_filter_after_a_pool_counts_on_the_pooled_lattice():
    net = fork(
        ("p", "a", "b", MaxPool((2, 2, 2))),
        ("m", "b", "c", MaxFilter((2, 2, 2), (2, 2, 2))),
        ("c", "c", "d", Convolution((3, 3, 3))),
        ("t", "d", "e", Transfer()),
    )
    assert net.field_of_view == (12, 12, 12)
    assert net.sparsity == (2, 2, 2)
