"""Blocks and groups of a node against the reference's fragments; losses; pooled memory; validation."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import SEEDS, normal, times, triples

from znn_dask.ops import layout, loss, memory, reference, validation
from znn_dask.ops.layout import Arrangement, Entry


@st.composite
def arrangements(draw):
    """A node of some sparsity, its entries in the order of fragments, cut into groups and blocks."""
    sparsity, size = draw(triples(1, 2)), draw(triples(1, 3))
    n_examples = draw(st.integers(1, 2))
    entries = [Entry(e, *p) for p in np.ndindex(*sparsity) for e in range(n_examples)]
    per_group = draw(st.integers(1, len(entries)))
    groups = tuple(tuple(entries[i : i + per_group]) for i in range(0, len(entries), per_group))
    widths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    stops = np.cumsum([0, *widths]).tolist()
    return Arrangement(size, sparsity, groups, tuple(pairwise(stops)))


def pieces(fragments, arrangement):
    """Cut the reference's fragments into blocks, group by group."""
    first = 0
    for group in arrangement.groups:
        for start, stop in arrangement.blocks:
            yield fragments[first : first + len(group), ..., start:stop]
        first += len(group)


@given(arrangements(), SEEDS, st.data())
def test_blocks_are_pieces_of_the_fragments_and_come_back(arrangement, seed, data):
    rng = np.random.default_rng(seed)
    assert arrangement.dense_size == times(arrangement.size, arrangement.sparsity)
    size = tuple(data.draw(st.integers(1, n)) for n in arrangement.dense_size)
    batch = normal(rng, arrangement.n_examples, arrangement.n_channels, *size, dtype=np.float32)
    padding = [(0, full - n) for n, full in zip(size, arrangement.dense_size, strict=True)]
    padded = np.pad(batch, [(0, 0), (0, 0), *padding])
    blocks = layout.split(batch, arrangement)
    fragments = reference.split_fragments(reference.to_internal(padded), [arrangement.sparsity])
    for block, piece in zip(blocks, pieces(fragments, arrangement), strict=True):
        np.testing.assert_array_equal(block, piece)
    np.testing.assert_array_equal(layout.to_public(blocks, arrangement, size), batch)


@given(triples(1, 4), triples(0, 2), st.integers(1, 3), st.integers(1, 4), SEEDS, st.data())
def test_a_block_of_an_input_is_cut_and_padded(size, extra, n_examples, channels, seed, data):
    rng = np.random.default_rng(seed)
    batch = normal(rng, n_examples, channels, *size, dtype=np.float32)
    first = data.draw(st.integers(0, channels - 1))
    stop = data.draw(st.integers(first + 1, channels))
    examples = data.draw(st.permutations(range(n_examples)))
    padded_size = tuple(n + e for n, e in zip(size, extra, strict=True))
    block = layout.from_public(batch, [Entry(e, 0, 0, 0) for e in examples], (first, stop), padded_size)
    expected = np.zeros((n_examples, *padded_size, stop - first), np.float32)
    z, y, x = size
    expected[:, :z, :y, :x] = reference.to_internal(batch)[examples, ..., first:stop]
    np.testing.assert_array_equal(block, expected)


def test_kernels_change_sides():
    kernel = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.float32).reshape(2, 3, 4, 5, 6)
    np.testing.assert_array_equal(layout.kernel_to_internal(kernel), reference.kernel_to_internal(kernel))
    np.testing.assert_array_equal(layout.kernel_to_public(layout.kernel_to_internal(kernel)), kernel)


# --- losses ---


def expected_loss(name, prediction, target, weight):
    """The reference's loss and gradient for public arrays."""
    inside = lambda a: a if a is None or a.ndim == 4 else np.moveaxis(a, 1, -1)  # noqa: E731
    value, gradient = reference.LOSSES[name](inside(prediction), inside(target), inside(weight))
    return value, np.moveaxis(gradient, -1, 1)


@pytest.mark.parametrize("weighted", [None, "every channel", "one channel"])
@pytest.mark.parametrize("name", ["square", "logistic", "softmax"])
@given(
    size=triples(1, 4),
    batch=st.integers(1, 3),
    channels=st.integers(1, 4),
    scale=st.sampled_from([1, 50]),
    seed=SEEDS,
)
def test_loss_equals_reference(name, weighted, size, batch, channels, scale, seed):
    rng = np.random.default_rng(seed)
    prediction = normal(rng, batch, channels, *size, dtype=np.float32) * np.float32(scale)
    target = rng.random((batch, channels, *size), np.float32)
    weight = {
        None: None,
        "every channel": rng.random(target.shape, np.float32),
        "one channel": rng.random((batch, 1, *size), np.float32),
    }[weighted]
    if name == "softmax":
        target = rng.integers(0, channels, (batch, *size))
        weight = None if weight is None else weight[:, 0]
    arrangement = Arrangement(size, (1, 1, 1), (tuple(Entry(e, 0, 0, 0) for e in range(batch)),), ((0, channels),))
    blocks = layout.split(prediction, arrangement)
    found, *d_found = loss.loss_and_gradients(blocks, target, weight, name, arrangement, size)
    expected, d_expected = expected_loss(name, prediction, target, weight)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)
    np.testing.assert_allclose(layout.to_public(d_found, arrangement, size), d_expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["square", "logistic", "softmax"])
def test_loss_of_blocks_counts_only_the_voxels_asked_for(name):
    rng = np.random.default_rng(0)
    entries = tuple(Entry(e, *p) for p in np.ndindex(1, 2, 2) for e in range(2))
    arrangement = Arrangement((2, 2, 3), (1, 2, 2), (entries[:4], entries[4:]), ((0, 2), (2, 3)))
    size = (2, 3, 5)
    dense = normal(rng, 2, 3, *arrangement.dense_size, dtype=np.float32)
    target = rng.integers(0, 3, (2, *size)) if name == "softmax" else rng.random((2, 3, *size), np.float32)
    value, *d_blocks = loss.loss_and_gradients(layout.split(dense, arrangement), target, None, name, arrangement, size)
    expected, d_expected = expected_loss(name, dense[:, :, :2, :3, :5], target, None)
    assert value == pytest.approx(expected, rel=1e-6)
    d_dense = layout.to_public(d_blocks, arrangement, arrangement.dense_size)
    np.testing.assert_allclose(d_dense[:, :, :2, :3, :5], d_expected, rtol=1e-5, atol=1e-9)
    d_dense[:, :, :2, :3, :5] = 0
    assert not d_dense.any(), "what was added by rounding up has no gradient"


def test_unknown_loss_is_refused():
    with pytest.raises(ValueError, match=r"one of square, logistic, softmax, .*got 'sqare'\. Did you mean 'square'\?"):
        loss.check_loss("sqare")


# --- memory ---


def test_pooled_memory_is_aligned_and_used_again():
    shape = (123, 45)
    array = memory.empty(shape)
    assert array.dtype == np.float32
    assert array.ctypes.data % 64 == 0
    view = array[3:]
    address = array.ctypes.data
    del array
    other = memory.empty(shape)
    assert other.ctypes.data != address, "a view keeps the memory"
    del view
    before = memory.pool_counts().n_from_system
    again = memory.empty(shape)
    assert again.ctypes.data == address
    assert memory.pool_counts().n_from_system == before
    assert not memory.zeros(shape).any()


def test_pool_counts_bytes_and_is_trimmed():
    before = memory.pool_counts()
    array = memory.empty((1 << 20,))
    assert memory.pool_counts().bytes_in_use - before.bytes_in_use == 4 << 20
    del array
    assert memory.pool_counts().bytes_in_use == before.bytes_in_use
    memory.trim_pool()
    after = memory.pool_counts()
    assert after.bytes_from_system == after.bytes_in_use


def test_pool_tells_its_peak():
    kept = memory.empty((1 << 18,))
    memory.reset_peak()
    start = memory.pool_counts()
    assert start.bytes_peak == start.bytes_in_use
    for n in (3 << 18, 1 << 18):
        array = memory.empty((n,))
        del array
    assert memory.pool_counts().bytes_peak == start.bytes_in_use + 4 * (3 << 18)
    memory.reset_peak()
    assert memory.pool_counts().bytes_peak == start.bytes_in_use
    assert kept.nbytes <= start.bytes_in_use


@pytest.mark.parametrize("n_bytes", [0, 1, 64, 65, 4095, 4096, 4097, 16384, 100_000])
def test_arrays_take_whole_lines_or_pages(n_bytes):
    before = memory.pool_counts().bytes_in_use
    array = memory.empty_index((n_bytes,), 2)
    assert memory.pool_counts().bytes_in_use - before == memory.pooled_bytes(n_bytes)
    del array


def test_blocks_of_one_size_are_used_for_others():
    """What was cut to pieces is joined again, in whatever order the pieces come back."""
    memory.trim_pool()
    whole = memory.empty((1 << 22,))
    del whole
    before = memory.pool_counts()
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = rng.integers(1 << 12, 1 << 17, 24)
        pieces = [memory.empty((size,)) for size in sizes]
        starts = sorted((piece.ctypes.data, piece.nbytes) for piece in pieces)
        assert all(a + n <= b for (a, n), (b, _) in pairwise(starts))
        for index, piece in enumerate(pieces):
            piece[:] = index
        assert all((piece == index).all() for index, piece in enumerate(pieces))
        del piece
        for index in rng.permutation(len(pieces)):
            pieces[index] = None
    assert memory.empty((1 << 22,)).size == 1 << 22
    assert memory.pool_counts().n_from_system == before.n_from_system
    assert memory.pool_counts().bytes_from_system == before.bytes_from_system


def test_memory_that_was_returned_comes_again():
    arrays = [memory.zeros((n,)) for n in (1 << 14, 1 << 20, 1 << 16)]
    del arrays[1]
    memory.trim_pool()
    counts = memory.pool_counts()
    assert counts.bytes_from_system == counts.bytes_in_use
    again = memory.empty((1 << 20,))
    again[:] = 1.0
    assert memory.pool_counts().n_from_system > counts.n_from_system
    assert not any(array.any() for array in arrays)


@pytest.mark.timeout(60)
def test_the_pool_serves_many_threads():
    def work(seed):
        rng = np.random.default_rng(seed)
        held = []
        for _ in range(300):
            array = memory.empty((int(rng.integers(1, 1 << 15)),))
            array[:] = seed
            held.append(array)
            if len(held) > 8:
                assert (held.pop(int(rng.integers(len(held)))) == seed).all()
        return all((array == seed).all() for array in held)

    before = memory.pool_counts().bytes_in_use
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(8)))
    assert memory.pool_counts().bytes_in_use == before


@pytest.mark.parametrize(("n_values", "dtype"), [(256, np.uint8), (257, np.uint16)])
def test_index_arrays_are_as_small_as_possible(n_values, dtype):
    assert memory.empty_index((2, 3), n_values).dtype == dtype


def test_contiguous_copies_only_what_is_not():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert memory.contiguous(array) is array
    for other in (array.T, array.astype(float)):
        copy = memory.contiguous(other)
        np.testing.assert_array_equal(copy, other)
        assert copy.flags.c_contiguous
        assert copy.dtype == np.float32


# --- validation ---


def test_the_twin_runs_beside_its_operation(monkeypatch):
    monkeypatch.setenv("ZNN_DASK_VALIDATE", "1")
    double = lambda a: 2 * a  # noqa: E731
    right = validation.twin(double)(lambda a: a + a)
    wrong = validation.twin(double)(lambda a: 2.001 * a)
    misshapen = validation.twin(double)(lambda a: np.append(2 * a, 0))
    array = np.arange(4.0)
    np.testing.assert_array_equal(right(array), 2 * array)
    with pytest.raises(validation.ValidationError, match=r"differs from its reference by 0\.0005"):
        wrong(array)
    with pytest.raises(validation.ValidationError, match=r"shape \(5,\), its reference has \(4,\)"):
        misshapen(array)
    with pytest.raises(validation.ValidationError):
        validation.twin(double)(lambda a: a * np.nan)(array)


def test_the_twin_costs_nothing_unless_asked_for(monkeypatch):
    monkeypatch.setenv("ZNN_DASK_VALIDATE", "0")
    operation = lambda a: a  # noqa: E731
    assert validation.twin(operation)(operation) is operation


def test_small_values_are_validated_as_closely_as_large_ones(monkeypatch):
    """Gradients are means over many voxels: often below a millionth."""
    monkeypatch.setenv("ZNN_DASK_VALIDATE", "1")
    wrong = validation.twin(lambda a: 2 * a)(lambda a: 2.001 * a)
    with pytest.raises(validation.ValidationError, match="differs from its reference"):
        wrong(np.full(4, 1e-6))
