"""Winograd convolution in every corner of its shapes, on every instruction set that this machine has.

The instruction set is chosen once per process, so this file is also a program: it runs the same comparisons on the
set that ZNN_DASK_ISA names, and prints which that was.
"""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ops_cases import SEEDS, SETS, check_fused, convolution_arrays, normal, run_with_instruction_set, triples

from znn_dask import _kernels
from znn_dask.ops import direct, reference, transfer, winograd

WIDTHS = st.sampled_from([1, 2, 3, 5, 7, 8, 9, 12, 16, 17, 20, 24, 28, 32, 33, 40, 48, 60, 64, 80])
INPUTS = st.sampled_from([1, 2, 3, 5, 7, 8, 13, 16, 17, 28, 40])
SIZES = st.one_of(
    st.just((1, 1, 1)),
    triples(1, 9),
    st.tuples(st.just(1), st.integers(1, 14), st.integers(1, 30)),
    st.tuples(st.integers(6, 12), st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.sampled_from([3, 5, 6, 9]), st.sampled_from([3, 5, 6, 9])),  # tiles of 5
)
KERNELS = st.tuples(st.integers(1, 4), st.integers(2, 5)).map(lambda k: (k[0], k[1], k[1]))
PADDINGS = st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 3)

# A seed, the sizes of the output and the kernel, the batch, the channels of the images, and those of the output.
PROBLEMS = st.tuples(SEEDS, SIZES, KERNELS, st.integers(1, 5), st.lists(INPUTS, min_size=1, max_size=3), WIDTHS)


def assert_near(found, expected, n_terms):
    """The error of all values together, relative to what sums of so many normal products are (Euclidean norms)."""
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= 1e-5 * np.sqrt(expected.size * n_terms)


def check(problem):
    """Compare all three passes with float64."""
    images, kernels, d_output = convolution_arrays(*problem)
    d_precise = d_output.astype(np.float64)
    pairs = [(image.astype(np.float64), kernel) for image, kernel in zip(images, kernels, strict=True)]
    n_taps, n_out, n_rows = int(np.prod(kernels[0].shape[:3])), d_output.shape[4], int(np.prod(d_output.shape[:4]))
    n_terms = sum(image.shape[4] for image in images) * n_taps
    assert_near(winograd.forward(images, kernels), sum(reference.conv_forward(x, w) for x, w in pairs), n_terms)
    for image, (x, kernel) in zip(images, pairs, strict=True):
        expected = reference.conv_input_gradient(d_precise, kernel)
        assert_near(winograd.backward([d_output], [kernel]), expected, n_out * min(n_taps, n_rows))
        expected = reference.conv_kernel_gradient(x, d_precise)
        assert_near(winograd.kernel_gradient(image, d_output), expected, n_rows)
        shares = [winograd.kernel_gradient(image, d_output, (i, 3)) for i in range(3)]
        assert_near(sum(shares), expected, n_rows)


@settings(max_examples=200)
@given(PROBLEMS)
@example((0, (1, 1, 1), (4, 5, 5), 1, [3], 15))  # a kernel as large as the image
@example((1, (12, 12, 12), (3, 3, 3), 8, [24, 16], 24))  # several chunks of tiles
@example((2, (80, 2, 3), (3, 2, 2), 1, [40], 40))  # a chunk that is one tile and some of its slices
@example((3, (1, 60, 60), (1, 3, 3), 1, [60], 60))
@example((4, (2, 5, 3), (1, 3, 3), 2, [8], 8))  # folded, and less than a vector at the end of the image
@example((5, (3, 4, 9), (2, 4, 4), 3, [17, 1], 8))
@example((6, (1, 6, 6), (1, 3, 3), 64, [60], 56))  # tiles of 5, several chunks
@example((7, (3, 5, 9), (3, 3, 3), 2, [7, 8], 8))  # tiles of 5, folded, with rims
@example((8, (1, 100, 100), (1, 2, 2), 1, [600], 1))  # so many chunks that sums join a total twice
def test_all_passes_equal_float64(problem):
    check(problem)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("wish", SETS)
def test_all_passes_equal_float64_on_lesser_processors(wish):
    run_with_instruction_set(__file__, wish)


@given(PROBLEMS, st.sampled_from(transfer.FUNCTIONS), st.booleans())
@example((0, (2, 6, 5), (2, 3, 3), 3, [8, 5], 17), "tanh", True)  # tiles of 5
def test_a_fused_transfer_function_changes_no_bit(problem, function, has_bias):
    check_fused(winograd, problem, function, has_bias)


def check_padded(problem, fractions):
    """Compare all passes with those of `direct`, of an image of which the rim is zeros that are not there."""
    images, kernels, _ = convolution_arrays(*problem)
    taps = kernels[0].shape[:3]
    before, after = (tuple(min(k - 1, pair[i]) for k, pair in zip(taps, fractions, strict=True)) for i in (0, 1))
    padding = before, after
    expected = direct.forward(images, kernels, padding)
    n_taps = int(np.prod(taps))
    assert_near(winograd.forward(images, kernels, padding), expected, sum(i.shape[4] for i in images) * n_taps)
    d_output = normal(np.random.default_rng(1), *expected.shape, dtype=np.float32)
    expected = direct.backward([d_output], kernels[:1], padding)
    assert_near(winograd.backward([d_output], kernels[:1], padding), expected, d_output.shape[4] * n_taps)
    for share in ((0, 1), (1, 2)):
        found = winograd.kernel_gradient(images[0], d_output, share, padding)
        expected = direct.kernel_gradient(images[0], d_output, share, padding)
        assert_near(found, expected, int(np.prod(d_output.shape[:4])))


@settings(max_examples=150)
@given(PROBLEMS, PADDINGS)
@example((0, (8, 8, 20), (3, 3, 3), 1, [32, 16], 32), ((1, 1),) * 3)
@example((0, (1, 1, 1), (3, 5, 5), 1, [3], 17), ((2, 2),) * 3)
@example((0, (2, 5, 3), (2, 3, 3), 3, [8, 3], 20), ((1, 0), (0, 1), (2, 1)))  # tiles of 5, of outputs 6 and 6
def test_padding_equals_that_of_direct(problem, fractions):
    check_padded(problem, fractions)


@given(PROBLEMS)
def test_the_results_do_not_depend_on_what_memory_held(problem):
    images, kernels, d_output = convolution_arrays(*problem)
    runs = []
    for _ in range(2):
        runs.append([winograd.forward(images, kernels), winograd.kernel_gradient(images[0], d_output)])
        direct.forward([image + np.float32(np.nan) for image in images], kernels)  # leaves NaN in the scratch memory
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("n", "k", "along"), [(3, 2, 4), (4, 2, 6), (2, 3, 4), (4, 3, 6), (8, 3, 12), (3, 4, 6), (2, 5, 6)]
)
def test_products_of_tiles_of_4_or_6_values(n, k, along):
    assert winograd.points(n, n, k) == along**2


@pytest.mark.parametrize(
    ("y", "x", "k", "points"),
    [(3, 3, 3, 25), (9, 9, 3, 225), (9, 6, 3, 128), (4, 4, 3, 36), (6, 8, 3, 128), (6, 6, 2, 64)],
)
def test_tiles_of_5_are_taken_where_they_save_a_tenth(y, x, k, points):
    assert winograd.points(y, x, k) == winograd.points(x, y, k) == points


@pytest.mark.parametrize(
    ("y", "x", "k", "points"), [(6, 6, 3, 64), (17, 17, 3, 576), (43, 43, 3, 4356), (5, 5, 4, 64), (4, 3, 5, 64)]
)
def test_tiles_of_8_are_taken_where_they_save_a_tenth(y, x, k, points):
    assert winograd.points(y, x, k) == winograd.points(x, y, k) == points


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 1, 1), (3, 3, 5), (1, 6, 6)])
def test_kernels_it_is_not_for_are_refused(kernel):
    assert not winograd.fits(kernel)
    image, taps = np.zeros((1, 9, 9, 9, 2), np.float32), np.zeros((*kernel, 2, 3), np.float32)
    d_output = np.zeros((1, *(9 - k + 1 for k in kernel), 3), np.float32)
    for call in (
        lambda: winograd.forward([image], [taps]),
        lambda: winograd.backward([d_output], [taps]),
        lambda: winograd.kernel_gradient(image, d_output),
    ):
        with pytest.raises(ValueError, match="as many taps along y as along x, 2 to 5"):
            call()


def main() -> None:
    shapes = [((1, 1, 1), (2, 3, 3)), ((2, 3, 9), (3, 2, 2)), ((2, 7, 17), (1, 4, 4)), ((3, 4, 5), (3, 5, 5))]
    shapes += [((2, 6, 5), (2, 3, 3))]  # tiles of 5
    for seed, n_out in enumerate((1, 2, 3, 4, 6, 8, 12, 15, 17, 33, 40)):
        for n_in, batch in ((1, 1), (5, 2), (8, 1), (13, 5), (40, 4)):
            size, kernel = shapes[(seed + n_in) % len(shapes)]
            problem = seed, size, kernel, batch, [n_in, 2] if n_in == 5 else [n_in], n_out
            check(problem)
            check_padded(problem, ((1, 0), (1, 1), (0, 2)))
            check_fused(winograd, problem, "elu", n_in > 1)
    print(_kernels.isa())


if __name__ == "__main__":
    main()
