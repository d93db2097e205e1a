"""The kernels as compiled for lesser processors are right too, on any machine that runs the tests.

The instruction set is chosen once per process, so this file is also a program that compares every operation with
its reference, in shapes that leave rests of vectors, and prints what it ran on.
"""

import numpy as np
import pytest
import sampling_cases
from ops_cases import SETS, run_with_instruction_set

from znn_dask import _kernels
from znn_dask.ops import direct, loss, reference, spectral, transfer
from znn_dask.ops import filter as filters
from znn_dask.ops.layout import Arrangement, Entry
from znn_dask.ops.spectral import Tiling
from znn_dask.ops.transfer import Activation


@pytest.mark.timeout(120)
@pytest.mark.parametrize("wish", SETS)
def test_every_operation_equals_its_reference(wish):
    run_with_instruction_set(__file__, wish)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * max(1.0, np.abs(expected).max()))


def check_convolution(rng, n_in, n_out, batch):
    image, kernel, d_output = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in [(batch, 4, 5, 7, n_in), (2, 3, 3, n_in, n_out), (batch, 3, 3, 5, n_out)]
    )
    tiling = Tiling((4, 5, 7), (2, 3, 3), (4, 5, 6), "scipy")
    x, d = spectral.image_spectrum(image, tiling), spectral.gradient_spectrum(d_output, tiling)
    stored = spectral.kernel_spectrum(kernel, tiling)
    expected = reference.conv_forward(image, kernel)
    assert_close(direct.forward([image], [kernel]), expected)
    assert_close(spectral.output_image(spectral.product([x], [kernel], tiling), tiling), expected)
    assert_close(spectral.output_image(spectral.stored_product([x], [stored], tiling), tiling), expected)
    expected = reference.conv_input_gradient(d_output, kernel)
    assert_close(direct.backward([d_output], [kernel]), expected)
    assert_close(spectral.gradient_image(spectral.product([d], [kernel], tiling, True), tiling), expected)
    assert_close(spectral.gradient_image(spectral.stored_product([d], [stored], tiling, True), tiling), expected)
    expected = reference.conv_kernel_gradient(image, d_output)
    assert_close(direct.kernel_gradient(image, d_output), expected)
    assert_close(spectral.kernel_gradient(x, d, tiling), expected)
    assert_close(spectral.stored_kernel_gradient(x, d, tiling), expected)


def check_pointwise(rng, channels, batch):
    image = rng.integers(-3, 3, (batch, 4, 5, 5, channels)).astype(np.float32)
    for window, stride in [
        ((2, 2, 3), (3, 2, 1)),
        ((1, 2, 2), (1, 2, 2)),
        ((3, 2, 5), (1, 4, 1)),
        ((2, 2, 2), (3, 2, 2)),
    ]:
        output, index = filters.max_filter(image, window, stride)
        expected, where = reference.max_filter(image, window, stride)
        np.testing.assert_array_equal(output, expected)
        np.testing.assert_array_equal(index, where)
        d_image = filters.max_filter_backward([output], [index], window, stride, (4, 5, 5))
        assert_close(d_image, reference.max_filter_backward(expected, where, window, stride, (4, 5, 5)))
    wide = rng.integers(-3, 3, (batch, 1, 17, 19, channels)).astype(np.float32)
    output, index = filters.max_filter(wide, (1, 16, 17), (1, 2, 3))  # places of 16 bits
    expected, where = reference.max_filter(wide, (1, 16, 17), (1, 2, 3))
    np.testing.assert_array_equal(output, expected)
    np.testing.assert_array_equal(index, where)
    check_losses(rng, channels, batch)
    bias = rng.standard_normal(channels).astype(np.float32)
    for function in transfer.FUNCTIONS:
        output = transfer.forward(image, bias, Activation(function))
        assert_close(output, reference.transfer_forward(image, bias, function))
        results = transfer.backward(image, output, Activation(function))
        for found, expected in zip(results, reference.transfer_backward(image, output, function), strict=True):
            assert_close(found, expected)


def check_losses(rng, channels, batch):
    size, entries = (2, 3, 4), tuple(Entry(e, 0, y, 0) for e in range(batch) for y in (0, 1))
    arrangement = Arrangement((2, 2, 4), (1, 2, 1), (entries,), ((0, channels),))
    prediction = 5 * rng.standard_normal((2 * batch, 2, 2, 4, channels), dtype=np.float32)
    # Those of trees of edges are compiled once, for all processors.
    for name in (name for name in loss.LOSSES if not name.startswith("malis")):
        target = rng.random((batch, channels, *size), dtype=np.float32)
        if name == "softmax":
            target = rng.integers(0, channels, (batch, 1, *size))
        arguments = ([prediction], target, None, name, arrangement, size)
        for found, expected in zip(loss.loss_and_gradients(*arguments), loss.reference(*arguments), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def main() -> None:
    rng = np.random.default_rng(0)
    for n_out in (1, 3, 4, 5, 8, 13, 16, 17, 24, 31, 33, 40, 49):
        check_convolution(rng, n_in=int(rng.integers(1, 18)), n_out=n_out, batch=int(rng.integers(1, 9)))
        check_pointwise(rng, channels=n_out, batch=int(rng.integers(1, 4)))
    for channels in sampling_cases.CHANNELS:
        sampling_cases.check_all(rng, channels)
    print(_kernels.isa())


if __name__ == "__main__":
    main()
