"""Choices: what is proposed, how blocks are cut, that the fastest told is taken, pass by pass."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lower_cases import NETS

from znn_dask.errors import ParameterError
from znn_dask.lower import Options, choose, cost, make_plan
from znn_dask.lower import plan as plans
from znn_dask.lower.choose import block_widths, layers_of, n_shares
from znn_dask.lower.cost import candidates, predict, tile_sizes, whole_size
from znn_dask.lower.layers import DIRECT, NEEDS, WINOGRAD, Candidate, Layer, best, seconds_of, used, works
from znn_dask.lower.plan import PASSES, ConvolutionPlan, check_plan
from znn_dask.net import Network
from znn_dask.ops import winograd

pytestmark = pytest.mark.timeout(60)

LAYER = Layer((20, 20, 20), (5, 5, 5), 4, 8, (24, 16), (16, 16, 8))
FLAT = Layer((1, 60, 70), (1, 7, 9), 2, 4, (16,), (32,))
WIDE = Network.parse("CTMCTMCTCT", width=40, kernel=3, out_channels=40)


# --- kernel gradients that tasks share ---


@pytest.mark.parametrize(
    ("layer", "plan", "shares"),
    [
        # One block and one group: as many as there should be tasks, but no more than there are frequencies to share.
        (Layer((1, 400, 400), (1, 20, 20), 1, 1, (1,), (16,)), ConvolutionPlan(*["fft"] * 3, (1, 96, 128)), 8),
        (Layer((40, 200, 200), (3, 3, 3), 1, 1, (1,), (16,)), ConvolutionPlan(*["fft"] * 3, (8, 64, 64)), 5),
        (Layer((59, 59, 59), (5, 5, 5), 1, 1, (1,), (16, 16, 8)), ConvolutionPlan(*["direct"] * 3), 3),
        (Layer((6, 259, 259), (3, 5, 5), 1, 1, (1,), (16,)), ConvolutionPlan(*["direct"] * 3), 4),
        (Layer((12, 12, 12), (3, 3, 3), 1, 1, (1,), (16,)), ConvolutionPlan(*["direct"] * 3), 1),  # too short
        (LAYER, ConvolutionPlan(*["fft"] * 3, (16, 16, 16)), 1),  # enough tasks
        (Layer((59, 59, 59), (5, 5, 5), 1, 1, (1,), (16,), passes=("forward",)), ConvolutionPlan(*["direct"] * 3), 1),
    ],
)
def test_few_tasks_are_shared(layer, plan, shares):
    assert n_shares(layer, plan, 8) == shares


# --- blocks ---


@pytest.mark.parametrize(
    ("channels", "n_groups", "widest", "widths"),
    [
        (40, 1, 64, (16, 16, 8)),
        (40, 2, 64, (24, 16)),
        (40, 4, 64, (24, 16)),
        (24, 2, 64, (16, 8)),
        (24, 4, 64, (24,)),
        (40, 8, 64, (40,)),
        (40, 8, 32, (24, 16)),
        (40, 8, 16, (16, 16, 8)),
        (80, 16, 64, (48, 32)),
        (80, 4, 64, (48, 32)),
        (80, 1, 64, (16, 16, 16, 16, 16)),
        (64, 8, 64, (64,)),
        (16, 1, 64, (16,)),
        (3, 1, 64, (3,)),
        (200, 1, 64, (32, 24, 24, 24, 24, 24, 24, 24)),
    ],
)
def test_block_widths(channels, n_groups, widest, widths):
    assert block_widths(channels, n_groups, widest, 8) == widths


@given(st.integers(1, 300), st.integers(1, 40), st.sampled_from([16, 32, 64]), st.integers(1, 100))
def test_blocks_hold_all_channels_in_whole_vectors(channels, n_groups, widest, tasks):
    widths = block_widths(channels, n_groups, widest, tasks)
    assert sum(widths) == channels
    assert min(widths) > 0
    assert all(width % 8 == 0 for width in widths[:-1])
    assert max(widths[:-1], default=0) - min(widths[:-1], default=0) <= 16
    if len(widths) * n_groups < tasks:
        assert len(widths) >= channels // 16, "wider than tasks are worth"
    if len(widths) * n_groups < tasks / 2:
        assert len(widths) == math.ceil(channels / 16), "CPUs without work"
    elif len(widths) > math.ceil(channels / widest):
        fewer = len(widths) - 1
        assert fewer * n_groups < tasks, "narrower than tasks need"
        assert channels >= 16 * len(widths) or fewer * n_groups < tasks / 2, "narrower than a vector is no use"


# --- what is proposed ---


@pytest.mark.parametrize("layer", [LAYER, FLAT])
def test_proposals_hold_the_kernel_and_include_the_whole_image(layer):
    proposed = candidates(layer, "auto", "auto")
    n_plain = 1 + winograd.fits(layer.kernel)
    assert proposed[:n_plain] == (DIRECT, WINOGRAD)[:n_plain]
    tiles = [candidate.tile for candidate in proposed[n_plain:]]
    assert 4 <= len(set(tiles)) <= 8
    whole = tuple(1 if k == 1 else n for n, k in zip(whole_size(layer.size), layer.kernel, strict=True))
    assert whole in tiles
    for tile in tiles:
        assert all(t >= k and (k > 1 or t == 1) for t, k in zip(tile, layer.kernel, strict=True))
    assert candidates(layer, "direct", "auto") == (DIRECT,)
    assert candidates(layer, "winograd", "auto") == ((DIRECT, WINOGRAD)[n_plain - 1],)
    assert DIRECT not in candidates(layer, "fft", "auto")


def test_a_backend_asked_for_is_the_only_one():
    assert {candidate.backend for candidate in candidates(LAYER, "fft", "scipy")} == {"scipy"}


@given(st.integers(1, 200), st.integers(2, 30))
def test_tile_sizes_hold_the_kernel_and_end_with_the_whole(n, k):
    n = max(n, k)
    sizes = tile_sizes(n, k)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[0] >= k
    assert n <= sizes[-1] <= whole_size((n, n, n))[0]


@pytest.mark.parametrize("passes", [PASSES, ("forward", "gradient"), ("forward",)])
def test_parts_are_those_that_the_passes_need(passes):
    layer = Layer(LAYER.size, LAYER.kernel, 4, 8, (24, 16), (16, 16, 8), passes)
    assert set(works(layer, DIRECT)) == set(passes)
    expected = {part for name in passes for part in (name, *NEEDS[name])}
    assert set(works(layer, Candidate("fft", (10, 10, 10), "pyfftw"))) == expected


def test_tasks_of_the_granularities():
    edge = Layer(LAYER.size, LAYER.kernel, 4, 8, (24, 16), (16, 16, 8), granularity="edge")
    for candidate in candidates(LAYER, "auto", "auto")[:2]:
        each, summed = works(edge, candidate), works(LAYER, candidate)
        multiplied = [work for work in each["forward"] if "image" not in work.operation]
        assert [(work.read, work.made) for work in multiplied] == [((i,), o) for o in (16, 16, 8) for i in (24, 16)]
        whole = [work for work in summed["forward"] if "image" not in work.operation]
        assert [(work.read, work.made) for work in whole] == [((24, 16), o) for o in (16, 16, 8)]


# --- the choice ---

SMALL, LARGE = Candidate("fft", (10, 10, 10), "pyfftw"), Candidate("fft", (20, 20, 20), "pyfftw")


def times(image, forward, slope, backward, gradient):
    return {
        "image-spectrum": image,
        "forward": forward,
        "gradient-spectrum": slope,
        "backward": backward,
        "gradient": gradient,
    }


@pytest.mark.parametrize(
    ("direct", "spectral", "expected", "seconds"),
    [
        ((3, 3, 3), (1, 1, 1, 1, 1), ("fft", "fft", "fft"), 5),
        ((1, 1, 1), (1, 1, 1, 1, 1), ("direct", "direct", "direct"), 3),
        ((1, 9, 9), (1, 3, 1, 1, 1), ("direct", "fft", "fft"), 5),
        # The image's spectrum is there, but that of the gradient would have to be made.
        ((9, 1, 2), (5, 1, 1, 1, 2), ("fft", "direct", "direct"), 9),
        ((9, 9, 2), (1, 1, 1, 1, 1.5), ("fft", "fft", "fft"), 5.5),
        ((9, 9, 1), (1, 1, 1, 1, 1.5), ("fft", "fft", "direct"), 5),
    ],
)
def test_what_passes_share_is_counted_once(direct, spectral, expected, seconds):
    told = {DIRECT: dict(zip(PASSES, direct, strict=True)), SMALL: times(*spectral)}
    plan, total = best(LAYER, told)
    assert plan.algorithms == expected
    assert total == seconds == seconds_of(LAYER, told, plan)
    assert set(used(LAYER, plan)) == {DIRECT if name == "direct" else SMALL for name in expected}


@given(st.lists(st.floats(0.5, 2), min_size=16, max_size=16))
def test_no_other_choice_is_faster(values):
    told = {DIRECT: dict(zip(PASSES, values[:3], strict=True)), SMALL: times(*values[3:8]), LARGE: times(*values[8:13])}
    told[WINOGRAD] = dict(zip(PASSES, values[13:], strict=True))
    _, least = best(LAYER, told)
    for kinds, candidate in product(product(("direct", "winograd", "fft"), repeat=3), (SMALL, LARGE)):
        assert seconds_of(LAYER, told, ConvolutionPlan(*kinds, candidate.tile, candidate.backend)) >= least


def test_ties_go_to_the_first():
    same = times(1, 1, 1, 1, 1)
    assert best(LAYER, {LARGE: same, SMALL: same})[0].tile == LARGE.tile
    assert best(LAYER, {SMALL: same, LARGE: same})[0].tile == SMALL.tile


def test_passes_that_are_not_wanted_cost_nothing():
    layer = Layer(LAYER.size, LAYER.kernel, 4, 8, (16,), (16,), ("forward",))
    plan, total = best(layer, {DIRECT: {"forward": 3.0}, SMALL: {"image-spectrum": 1.0, "forward": 1.0}})
    assert plan.algorithms == ("fft", "fft", "fft")
    assert total == 2


# --- whole plans ---


def preferring(wanted):
    """Return a timing by which candidates that `wanted` accepts are a thousand times as fast as counted."""

    def timing(asked):
        return [
            {c: {part: s * (1e-3 if wanted(layer, c) else 1) for part, s in parts.items()} for c, parts in told.items()}
            for (layer, _), told in zip(asked, predict(asked), strict=True)
        ]

    return timing


@pytest.mark.parametrize("tile", [None, "last"])
def test_the_plan_takes_what_is_told_to_be_fastest(tile):
    def wanted(layer, candidate):
        proposed = candidates(layer, "auto", "auto")
        return candidate == (DIRECT if tile is None else proposed[-1])

    plan = make_plan(WIDE, {"output": (12, 12, 12)}, 1, Options(), preferring(wanted))
    check_plan(WIDE, plan)
    for name, chosen in plan.convolutions.items():
        assert (chosen.tile == (1, 1, 1)) == (chosen.algorithms == ("direct",) * 3) == (tile is None), name


@pytest.mark.parametrize("widest", [16, 24, 40])
def test_blocks_are_chosen_by_their_time(widest):
    timing = preferring(lambda layer, _: max(layer.blocks_out) == widest)
    plan = make_plan(WIDE, {"output": (12, 12, 12)}, 1, Options(tasks=1), timing)
    assert max(plan.blocks["output"]) == widest
    assert layers_of(WIDE, plan)["conv4"].blocks_out == plan.blocks["output"]


@pytest.mark.parametrize(("narrow_s", "widths"), [(1.0, (40,)), (0.99, (24, 16))])
def test_the_widest_of_the_fastest_blocks_are_taken(narrow_s, widths):
    def timing(asked):
        return [
            {c: dict.fromkeys(works(a, c), narrow_s if len(a.blocks_out) == 2 else 1.0) for c in each}
            for a, each in asked
        ]

    plan = make_plan(WIDE, {"output": (12, 12, 12)}, 1, Options(tasks=1), timing)
    assert plan.blocks["output"] == widths


@pytest.mark.parametrize(("cpus", "tasks"), [(1, 4), (2, 4), (3, 6), (16, 32)])
def test_a_node_has_some_tasks_for_every_cpu(cpus, tasks, monkeypatch):
    monkeypatch.setattr(plans, "available_cpus", lambda: cpus)
    assert Options().tasks == tasks


@pytest.mark.parametrize("name", ["CTMCTMCTCT", "CTCTMCTCTMCTCT"])
@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("tasks", [4, 16])
def test_fragments_are_grouped_as_is_counted_to_be_fastest(name, kernel, tasks, monkeypatch):
    net = Network.parse(name, ndim=2, width=40, kernel=kernel, out_channels=2)

    def seconds():
        plan = make_plan(net, {"output": (1, 64, 64)}, 1, Options(tasks=tasks))
        layers = layers_of(net, plan)
        asked = [(layer, used(layer, plan.convolutions[edge])) for edge, layer in layers.items()]
        each = zip(layers.items(), predict(asked), strict=True)
        return sum(seconds_of(layer, told, plan.convolutions[edge]) for (edge, layer), told in each)

    chosen = seconds()
    for way in choose.WAYS:
        monkeypatch.setattr(choose, "WAYS", (way,))
        assert chosen <= 1.1 * seconds(), way


def test_more_tasks_are_made_where_they_are_asked_for():
    """Groups first, one for every fragment at most; then narrower blocks, then shares of kernel gradients."""
    net = Network.parse("CTMCTMCTCT", width=80, kernel=5, out_channels=80)
    n_tasks = {}
    for tasks in (8, 30, 120):
        plan = make_plan(net, {"output": (12, 12, 12)}, 1, Options(tasks=tasks))
        groups = [layer.groups for layer in layers_of(net, plan).values()]
        blocks = [len(widths) for node, widths in plan.blocks.items() if node not in net.inputs]
        shares = [each.shares for each in plan.convolutions.values()]
        n_tasks[tasks] = max(groups), max(blocks), max(shares)
        check_plan(net, plan)
    assert n_tasks[8][0] < n_tasks[30][0] < n_tasks[120][0] <= 64
    assert n_tasks[8][1] <= n_tasks[120][1] == 80 // 16
    assert n_tasks[8][2] < n_tasks[120][2]


def test_layers_that_were_not_timed_are_left_to_the_cost_model():
    silent = make_plan(WIDE, {"output": (12, 12, 12)}, 1, Options(), lambda asked: [{} for _ in asked])
    assert silent == make_plan(WIDE, {"output": (12, 12, 12)}, 1, Options())


@pytest.mark.parametrize("name", NETS)
def test_settled_blocks_are_kept(name):
    net, sizes = NETS[name]
    blocks = make_plan(net, sizes, 2, Options(block=2)).blocks
    plan = make_plan(net, sizes, 3, Options(), blocks=blocks, training=False)
    assert plan.blocks == blocks
    check_plan(net, plan)


@pytest.mark.parametrize(
    "change",
    [
        {"forward": "fft-stored"},
        {"gradient": "sideways"},
        {"tile": (2, 9, 9)},
        {"backend": ""},
        {"backend": "auto"},
    ],
)
def test_plans_that_cannot_be(change):
    net, sizes = NETS["chain"]
    plan = make_plan(net, sizes, 1, Options("fft"))
    check_plan(net, plan)
    fields = {name: getattr(plan.convolutions["conv1"], name) for name in ConvolutionPlan.__struct_fields__}
    plan.convolutions["conv1"] = ConvolutionPlan(**fields | change)
    with pytest.raises(ParameterError, match="its plan is not one of its network"):
        check_plan(net, plan)


@pytest.mark.parametrize("size", [(40, 40, 40), (12, 37, 50), (1, 60, 60)])
@pytest.mark.parametrize("backend", ["auto", "scipy"])
def test_counting_all_tiles_at_once_leaves_out_none_of_the_best(size, backend, monkeypatch):
    kernel = tuple(min(n, 5) for n in size)
    layer = Layer(size, kernel, 8, 2, (8, 3), (5, 16))
    few = cost._tiles(layer, backend)
    monkeypatch.setattr(cost, "_promising", lambda merged, tiles, backend, most: tiles)
    assert cost._tiles(layer, backend) == few
