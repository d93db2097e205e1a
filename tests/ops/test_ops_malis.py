"""MALIS against its definition: the maximin affinity of every pair of voxels, on small graphs."""

import itertools
import time

import numpy as np
import pytest

from znn_dask import _kernels
from znn_dask.errors import ParameterError
from znn_dask.ops.losses import parse_loss
from znn_dask.ops.malis import malis

N_GRAPHS = 200


def random_graph(seed, ties=False):
    """Return affinities (logits), ids and offsets of a small grid."""
    rng = np.random.default_rng(seed)
    size = tuple(int(n) for n in rng.integers(1, 5, 3))
    offsets = [(-1, 0, 0), (0, -1, 0), (0, 0, -1)]
    if seed % 3 == 1:
        offsets = [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, -1, 2), (2, 0, 0)][: int(rng.integers(1, 6))]
    shape = (len(offsets), *size)
    count = int(np.prod(shape))
    values = rng.integers(-2, 3, count) if ties else rng.permutation(count) - count // 2
    ids = rng.integers(0, int(rng.integers(1, 5)) + 1, size) * (7 if seed % 2 else 2**33)
    return (values * 0.3).astype(np.float32).reshape(shape), ids, offsets


def edges_of(shape, offsets):
    """Yield the place of every edge in the affinities and the numbers of its two voxels."""
    size = shape[1:]
    for channel, offset in enumerate(offsets):
        for voxel in np.ndindex(*size):
            other = tuple(v + o for v, o in zip(voxel, offset, strict=True))
            if all(0 <= n < s for n, s in zip(other, size, strict=True)):
                yield (channel, *voxel), np.ravel_multi_index(voxel, size), np.ravel_multi_index(other, size)


def maximin(n, edges):
    """Return the highest lowest weight over all paths between any two nodes, -inf where there is no path."""
    best = np.full((n, n), -np.inf)
    for weight, u, v in edges:
        best[u, v] = best[v, u] = max(best[u, v], weight)
    for k in range(n):
        best = np.maximum(best, np.minimum(best[:, k : k + 1], best[k : k + 1]))
    return best


def by_definition(values, ids, offsets, constrained):
    """Return the maximin values of all pairs of one segment and of two, as far as there is a path."""
    flat = ids.reshape(-1)
    edges = [(float(values[at]), u, v) for at, u, v in edges_of(values.shape, offsets)]
    inside = [flat[u] == flat[v] != 0 for _, u, v in edges]
    join = part = maximin(flat.size, edges)
    if constrained:
        join = maximin(flat.size, [edge for edge, within in zip(edges, inside, strict=True) if within])
        raised = [(np.inf if within else weight, u, v) for (weight, u, v), within in zip(edges, inside, strict=True)]
        part = maximin(flat.size, raised)
    pairs = [(i, j) for i, j in itertools.combinations(range(flat.size), 2) if flat[i] and flat[j]]
    same = [join[i, j] for i, j in pairs if flat[i] == flat[j]]
    different = [part[i, j] for i, j in pairs if flat[i] != flat[j]]
    return tuple(np.array([a for a in found if np.isfinite(a)]) for found in (same, different))


def loss_by_definition(values, ids, offsets, constrained):
    same, different = (1 / (1 + np.exp(-a)) for a in by_definition(values, ids, offsets, constrained))
    n_same, n_different = (same.size, different.size) if constrained else (same.size + different.size,) * 2
    return np.sum((1 - same) ** 2) / max(n_same, 1) + np.sum(different**2) / max(n_different, 1)


@pytest.mark.parametrize("constrained", [False, True])
def test_pairs_are_those_of_the_definition_on_200_graphs(constrained):
    decided = 0
    for seed in range(N_GRAPHS):
        values, ids, offsets = random_graph(seed)
        found = [np.full_like(values, np.nan) for _ in range(2)]
        numbers = np.unique(ids, return_inverse=True)[1].reshape(ids.shape) + (ids.min() > 0)
        kernel_offsets = np.array(offsets, np.int32)
        sums = _kernels.malis(values, numbers.astype(np.int32), int(numbers.max()), kernel_offsets, constrained, *found)
        for counted, total, expected in zip(found, sums, by_definition(values, ids, offsets, constrained), strict=True):
            pairs = dict(zip(*np.unique(expected, return_counts=True), strict=True))
            got = {float(v): n for v, n in zip(values.ravel(), counted.ravel(), strict=True) if n}
            assert got == pairs, seed
            assert total == expected.size
            decided += len(got)
    assert decided > 5 * N_GRAPHS


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("constrained", [False, True])
def test_loss_is_that_of_the_definition(constrained, ties):
    for seed in range(N_GRAPHS):
        values, ids, offsets = random_graph(seed, ties)
        loss, _ = malis(values[None], ids[None], None, offsets, constrained)
        assert loss == pytest.approx(loss_by_definition(values, ids, offsets, constrained), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("constrained", [False, True])
def test_gradient_is_the_slope_of_the_definition(constrained):
    step = 1e-3  # less than half of what any two values differ by
    for seed in range(4, 9):
        values, ids, offsets = random_graph(seed)
        _, gradient = malis(values[None], ids[None], None, offsets, constrained)
        for at, _, _ in edges_of(values.shape, offsets):
            losses = []
            for way in (-step, step):
                moved = values.astype(np.float64)
                moved[at] += way
                losses.append(loss_by_definition(moved, ids, offsets, constrained))
            assert gradient[(0, *at)] == pytest.approx((losses[1] - losses[0]) / (2 * step), rel=1e-3, abs=1e-6)


def test_a_weight_multiplies_what_an_edge_costs_and_a_batch_is_a_mean():
    (p, ids, offsets), (q, _, _) = random_graph(3), random_graph(6)
    q = np.random.default_rng(0).permutation(p.ravel()).reshape(p.shape)
    alone = [malis(x[None], ids[None], None, offsets, True) for x in (p, q)]
    loss, gradient = malis(np.stack([p, q]), np.stack([ids, ids]), None, offsets, True)
    assert loss == pytest.approx((alone[0][0] + alone[1][0]) / 2)
    np.testing.assert_allclose(gradient[1], alone[1][1][0] / 2, rtol=1e-6)
    weight = np.random.default_rng(1).random(p.shape).astype(np.float32)
    _, weighted = malis(p[None], ids[None], weight[None], offsets, True)
    np.testing.assert_allclose(weighted[0], weight * alone[0][1][0], rtol=1e-6)


def test_a_large_patch_takes_less_than_a_second():
    rng = np.random.default_rng(0)
    ids = np.kron(np.arange(1, 126).reshape(5, 5, 5), np.ones((20, 20, 20), int))
    ids[rng.random(ids.shape) < 0.05] = 0
    affinities = rng.standard_normal((1, 3, *ids.shape)).astype(np.float32)
    offsets = parse_loss("malis").offsets(3)
    for constrained in (False, True):
        times = []
        for _ in range(3):
            before = time.thread_time()
            malis(affinities, ids[None], None, offsets, constrained)
            times.append(time.thread_time() - before)
        assert min(times) < 1.0


def test_as_many_segments_as_voxels():
    rng = np.random.default_rng(0)
    values, ids = rng.standard_normal((3, 20, 20, 20)).astype(np.float32), np.arange(1, 8001).reshape(20, 20, 20)
    loss, gradient = malis(values[None], ids[None], None, parse_loss("malis").offsets(3), False)
    assert 0 < loss < 1
    assert (gradient >= 0).all()


def test_offsets_are_checked_against_the_channels():
    assert parse_loss("malis").offsets(2) == [(0, 0, -1), (0, -1, 0)]
    assert parse_loss("malis_constrained(0,0,-1, 0,-9,0)").offsets(2) == [(0, 0, -1), (0, -9, 0)]
    with pytest.raises(ParameterError, match="each of the output's 4 channels"):
        parse_loss("malis").offsets(4)
    with pytest.raises(ParameterError, match="none 0,0,0"):
        parse_loss("malis(0,0,0)")
