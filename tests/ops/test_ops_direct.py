"""Direct convolution in every corner of its shapes, on every instruction set that this machine has.

The instruction set is chosen once per process, so this file is also a program: it runs the same comparisons on the
set that ZNN_DASK_ISA names, and prints which that was.
"""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ops_cases import SEEDS, SETS, check_fused, convolution_arrays, normal, run_with_instruction_set, triples

from znn_dask import _kernels
from znn_dask.ops import border, direct, reference, transfer
from znn_dask.ops.transfer import Activation

# Around the lanes of every instruction set (4, 8, 16), and what they are divided into: whole vectors and half ones.
WIDTHS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 24, 31, 32, 33, 40, 48, 56, 64, 80])
INPUTS = st.sampled_from([1, 2, 3, 5, 7, 8, 13, 16, 17, 40])
SIZES = st.one_of(
    st.just((1, 1, 1)),
    triples(1, 5),
    st.tuples(st.just(1), st.integers(1, 9), st.integers(1, 40)),
    st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(7, 20)),
)
KERNELS = st.one_of(triples(1, 3), st.tuples(st.just(1), st.integers(1, 8), st.integers(1, 8)))


# A seed, the sizes of the output and the kernel, the batch, the channels of the images, and those of the output.
PROBLEMS = st.tuples(SEEDS, SIZES, KERNELS, st.integers(1, 5), st.lists(INPUTS, min_size=1, max_size=3), WIDTHS)


def assert_near(found, expected):
    """The error of all values together, relative to all values together (a Euclidean norm each)."""
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def check(*problem):
    """Compare all three passes with float64."""
    images, kernels, d_output = convolution_arrays(*problem)
    precise = [image.astype(np.float64) for image in images]
    pairs = list(zip(precise, kernels, strict=True))
    assert_near(direct.forward(images, kernels), sum(reference.conv_forward(x, w) for x, w in pairs))
    d_precise = d_output.astype(np.float64)
    for image, (x, kernel) in zip(images, pairs, strict=True):
        assert_near(direct.backward([d_output], [kernel]), reference.conv_input_gradient(d_precise, kernel))
        assert_near(direct.kernel_gradient(image, d_output), reference.conv_kernel_gradient(x, d_output))


@settings(max_examples=200)
@given(PROBLEMS)
@example((0, (1, 1, 1), (7, 7, 7), 1, [3], 15))  # a kernel as large as the image
@example((1, (1, 6, 8), (1, 20, 20), 2, [16], 16))
@example((2, (9, 9, 9), (5, 5, 5), 1, [1], 40))  # a first layer
@example((3, (1, 1, 1), (3, 3, 3), 64, [40], 40))
@example((4, (3, 3, 3), (3, 3, 3), 16, [40, 24], 40))
@example((5, (1, 2, 2), (1, 4, 5), 3, [17, 1], 8))
def test_all_passes_equal_float64(problem):
    check(*problem)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("wish", SETS)
def test_all_passes_equal_float64_on_lesser_processors(wish):
    run_with_instruction_set(__file__, wish)


@given(PROBLEMS, st.sampled_from(transfer.FUNCTIONS), st.booleans())
def test_a_fused_transfer_function_changes_no_bit(problem, function, has_bias):
    check_fused(direct, problem, function, has_bias)


def check_padded(problem, fractions):
    """Compare all passes with those of a padded image, of which a part is added inside."""
    images, kernels, d_output = convolution_arrays(*problem)
    # At least one voxel of the image is left, and there is less padding than the kernel has taps.
    room = [min(n, k) - 1 for n, k in zip(images[0].shape[1:4], kernels[0].shape[:3], strict=True)]
    before = tuple(min(n, b) for n, (b, _) in zip(room, fractions, strict=True))
    left = [n - b - 1 for n, b in zip(images[0].shape[1:4], before, strict=True)]
    after = tuple(min(n, m, a) for n, m, (_, a) in zip(room, left, fractions, strict=True))
    cropped = [border.crop(image, before, after) for image in images]
    padded = [border.pad(image, before, after, "zero") for image in cropped]
    padding = before, after
    assert_near(direct.forward(cropped, kernels, padding), direct.forward(padded, kernels))
    bias, activation = np.ones(d_output.shape[4], np.float32), Activation("tanh")
    expected = transfer.forward(direct.forward(cropped, kernels, padding), bias, activation)
    np.testing.assert_array_equal(direct.forward_transfer(cropped, kernels, bias, activation, padding), expected)
    expected = border.crop(direct.backward([d_output], kernels[:1]), before, after)
    assert_near(direct.backward([d_output], kernels[:1], padding), expected)
    for share in ((0, 1), (1, 2)):
        found = direct.kernel_gradient(cropped[0], d_output, share, padding)
        np.testing.assert_array_equal(found, direct.kernel_gradient(padded[0], d_output, share))


@settings(max_examples=200)
@given(PROBLEMS, st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 3))
@example((0, (5, 5, 5), (3, 3, 3), 2, [16], 16), ((1, 1),) * 3)
@example((0, (8, 8, 20), (3, 3, 3), 1, [32, 16], 32), ((1, 1),) * 3)
@example((0, (1, 1, 1), (5, 5, 5), 1, [3], 17), ((2, 2),) * 3)
def test_padding_inside_equals_a_padded_image(problem, fractions):
    check_padded(problem, fractions)


def test_a_padding_as_large_as_the_kernel_is_refused():
    image, kernel, d_output = (np.zeros(shape, np.float32) for shape in (IMAGE, KERNEL, D_OUTPUT))
    for call in (
        lambda: direct.forward([image], [kernel], ((0, 0, 2), (0, 0, 0))),
        lambda: direct.backward([d_output], [kernel], ((0, 0, 0), (0, 2, 0))),
    ):
        with pytest.raises(ValueError, match="smaller than the kernel"):
            call()


@pytest.mark.parametrize("function", ["linear", "relu", "leaky_relu"])
@pytest.mark.parametrize("n_out", [1, 8, 16, 40])
def test_what_is_no_number_stays_where_it_is(function, n_out):
    """One NaN and one infinity reach exactly the outputs, and the gradients, that their neighbourhoods do."""
    image, kernel, d_output = (
        np.ones(shape, np.float32) for shape in [(2, 1, 3, 12, 5), (1, 2, 3, 5, n_out), (2, 1, 2, 10, n_out)]
    )
    image[0, 0, 1, 3, 4], image[1, 0, 2, 9, 0] = np.nan, np.inf
    d_output[1, 0, 1, 4, n_out - 1], d_output[0, 0, 0, 8, 0] = np.nan, np.inf
    for found, expected in [
        (direct.forward([image], [kernel]), reference.conv_forward(image, kernel)),
        (
            direct.forward_transfer([image], [kernel], None, Activation(function)),
            reference.transfer_forward(reference.conv_forward(image, kernel), None, function),
        ),
        (direct.backward([d_output], [kernel]), reference.conv_input_gradient(d_output, kernel)),
    ]:
        np.testing.assert_array_equal(found, expected)
    found, expected = direct.kernel_gradient(image, d_output), reference.conv_kernel_gradient(image, d_output)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))


IMAGE, KERNEL, D_OUTPUT = (2, 3, 3, 3, 5), (2, 2, 2, 5, 4), (2, 2, 2, 2, 4)


def without(shape, axis):
    return (*shape[:axis], 0, *shape[axis + 1 :])


@pytest.mark.parametrize(
    ("image", "kernel", "d_output"),
    [
        (without(IMAGE, 0), KERNEL, without(D_OUTPUT, 0)),
        (without(IMAGE, 4), without(KERNEL, 3), D_OUTPUT),
        (IMAGE, without(KERNEL, 4), without(D_OUTPUT, 4)),
    ],
)
def test_empty_batches_and_channels_are_refused(image, kernel, d_output):
    image, kernel, d_output = (np.zeros(shape, np.float32) for shape in (image, kernel, d_output))
    for call in (
        lambda: direct.forward([image], [kernel]),
        lambda: direct.backward([d_output], [kernel]),
        lambda: direct.kernel_gradient(image, d_output),
    ):
        with pytest.raises(ValueError, match="batch and channels must not be empty"):
            call()


def test_a_function_that_does_not_exist_and_a_bias_that_does_not_fit_are_refused():
    image, kernel, out = (np.zeros(shape, np.float32) for shape in (IMAGE, KERNEL, D_OUTPUT))
    with pytest.raises(ValueError, match="no such transfer function"):
        _kernels.direct_forward([image], [kernel], out, None, len(transfer.FUNCTIONS))
    with pytest.raises(ValueError, match="the bias does not fit the output"):
        direct.forward_transfer([image], [kernel], np.zeros(3, np.float32), Activation("relu"))


def main() -> None:
    shapes = [((1, 1, 1), (2, 3, 3)), ((2, 3, 9), (3, 2, 1)), ((2, 1, 17), (1, 3, 4)), ((3, 3, 3), (3, 3, 3))]
    for seed, n_out in enumerate((1, 2, 3, 4, 6, 7, 8, 12, 15, 17, 33, 40)):
        for n_in, batch in ((1, 1), (1, 3), (5, 2), (8, 1), (13, 5), (40, 4)):
            size, kernel = shapes[(seed + n_in) % len(shapes)]
            problem = seed, size, kernel, batch, [n_in, 2] if n_in == 5 else [n_in], n_out
            check(*problem)
            check_padded(problem, ((1, 0), (1, 1), (0, 2)))
            for function in transfer.FUNCTIONS:
                check_fused(direct, problem, function, n_in > 1)
    print(_kernels.isa())


@pytest.mark.parametrize("size", [(3, 5, 5, 5), (1, 9, 4, 4), (1, 1, 9, 7)])
@pytest.mark.parametrize("n_shares", [2, 3, 8])
def test_shares_of_a_kernel_gradient_add_up(size, n_shares):
    rng = np.random.default_rng(0)
    kernel = (1, 2, 3) if size[1] == 1 else (2, 3, 2)
    image = normal(rng, *size, 3, dtype=np.float32)
    d_output = normal(rng, size[0], *(n - k + 1 for n, k in zip(size[1:], kernel, strict=True)), 17, dtype=np.float32)
    shares = [direct.kernel_gradient(image, d_output, (i, n_shares)) for i in range(n_shares)]
    assert sum(share.any() for share in shares) == min(n_shares, next(n for n in d_output.shape if n > 1))
    expected = reference.conv_kernel_gradient(image.astype(np.float64), d_output)
    np.testing.assert_allclose(sum(shares), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


if __name__ == "__main__":
    main()
