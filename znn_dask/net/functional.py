"""Describing a network as functions of images, as in Keras.

    net = Network.builder()
    x = net.relu(net.conv(net.input("image"), 24, (1, 3, 3)))
    net.output(net.conv(x, 2, 1), "label")
    network = net.build()

What the methods return stands for images; it has no arrays. Edges are named conv1, transfer1, ... in the order of the
calls, unless a name is given, and inputs and outputs as they are called.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from znn_dask.errors import NetworkError
from znn_dask.geometry import Triple, as_triple
from znn_dask.net.initial import Init
from znn_dask.net.letters import Size, read_init, read_norm, read_transfer
from znn_dask.net.operations import (
    Convolution,
    Dropout,
    Normalisation,
    Padding,
    Softmax,
    Transfer,
    TransposedConvolution,
)
from znn_dask.net.sampling import AveragePool, Crop, Identity, MaxFilter, MaxPool, Upsample
from znn_dask.net.wiring import Draft, Maps, finish

if TYPE_CHECKING:
    from znn_dask.net.network import Network

Padded: TypeAlias = str | Size | Padding


class Builder:
    """Makes a network call by call; `Network.builder` returns one.

    Sizes are an int or (z, y, x); with ``ndim=2`` an int k means (1, k, k), and (y, x) will do. Every method takes
    images that another returned, and `name=` for the edge that it makes.

    Attributes
    ----------
    ndim : 2 or 3
    padding : "valid" | "same" | "mirror" | "replicate", voxels on every side, or Padding
        Of convolutions that do not say otherwise. "same" keeps the size and pads zeros.
    init : str or Init
        Of the weights of convolutions that do not say otherwise.
    """

    def __init__(
        self, make: Callable[..., "Network"], ndim: int = 3, padding: Padded = "valid", init: str | Init = "he"
    ) -> None:
        if ndim not in (2, 3):
            raise NetworkError(f"ndim must be 2 or 3, got {ndim!r}")
        self.ndim, self.padding, self.init = ndim, padding, read_init(init)
        self._make, self._draft = make, Draft()

    def input(self, name: str = "input", channels: int = 1) -> Maps:
        """Add an input of some maps."""
        return self._draft.input(name, channels)

    def output(self, x: Maps, name: str = "output") -> None:
        """Name an image as an output of the network."""
        self._draft.output(x, name)

    def build(self) -> "Network":
        """Return the network.

        Raises
        ------
        NetworkError
            If there is no output, or an image leads nowhere.
        """
        return self._make(*finish(self._draft), ndim=self.ndim)

    def conv(
        self,
        x: Maps,
        width: int,
        kernel: Size = 3,
        *,
        stride: Size = 1,
        padding: Padded | None = None,
        init: str | Init | None = None,
        norm: str | Normalisation | None = None,
        transfer: str | Transfer | None = None,
        name: str | None = None,
    ) -> Maps:
        """Convolve to `width` maps; then normalise and transfer, if they are given.

        It has no bias: that is of a transfer (`bias`, `relu`, ...), and after a normalisation there is none.
        """
        size = self._size(kernel, "kernel")
        padded = self.padding if padding is None else padding
        padded = padded if isinstance(padded, str | Padding) else Padding(self._amount(padded, "padding"))
        op = Convolution(size, self._init(init), self._size(stride, "stride"), padded)  # type: ignore[arg-type]
        return self.activate(self._draft.apply(op, x, width, name), norm, transfer)

    def transposed_conv(
        self,
        x: Maps,
        width: int,
        kernel: Size = 2,
        *,
        stride: Size | None = None,
        crop: Size | Padding = 0,
        init: str | Init | None = None,
        norm: str | Normalisation | None = None,
        transfer: str | Transfer | None = None,
        name: str | None = None,
    ) -> Maps:
        """Make the image larger by a stride, the kernel unless given, with a kernel that is learned."""
        size = self._size(kernel, "kernel")
        step = size if stride is None else self._size(stride, "stride")
        less = crop if isinstance(crop, Padding) else Padding(self._amount(crop, "crop"))
        op = TransposedConvolution(size, step, less, self._init(init))
        return self.activate(self._draft.apply(op, x, width, name), norm, transfer)

    def activate(
        self, x: Maps, norm: str | Normalisation | None = None, transfer: str | Transfer | None = None
    ) -> Maps:
        """Normalise and transfer, each if it is given; after a normalisation, which shifts, without a bias."""
        x = x if norm is None else self.norm(x, norm)
        return x if transfer is None else self.transfer(x, transfer, bias=norm is None)

    def transfer(self, x: Maps, function: str | Transfer, *, bias: bool = True, name: str | None = None) -> Maps:
        """Add a bias, then apply a function such as ``"relu"`` or ``"tanh(1.7159, 0.6666)"``."""
        op = read_transfer(function)
        return self._draft.apply(op if bias else replace(op, bias=False), x, None, name)

    def bias(self, x: Maps, *, init: str | Init = "zero", name: str | None = None) -> Maps:
        """Add a bias to every map."""
        return self._draft.apply(Transfer("linear", init=read_init(init)), x, None, name)

    def linear(self, x: Maps, a: float = 1.0, b: float = 0.0, *, bias: bool = True, name: str | None = None) -> Maps:
        """Add a bias, then a*x + b."""
        return self.transfer(x, Transfer("linear", (a, b)), bias=bias, name=name)

    def relu(self, x: Maps, *, bias: bool = True, name: str | None = None) -> Maps:
        """Add a bias, then max(x, 0)."""
        return self.transfer(x, "relu", bias=bias, name=name)

    def leaky_relu(self, x: Maps, slope: float = 0.01, *, bias: bool = True, name: str | None = None) -> Maps:
        """Add a bias, then x, or slope * x below zero."""
        return self.transfer(x, Transfer("leaky_relu", (slope,)), bias=bias, name=name)

    def elu(self, x: Maps, alpha: float = 1.0, *, bias: bool = True, name: str | None = None) -> Maps:
        """Add a bias, then x, or alpha * (exp(x) - 1) below zero."""
        return self.transfer(x, Transfer("elu", (alpha,)), bias=bias, name=name)

    def softplus(self, x: Maps, *, bias: bool = True, name: str | None = None) -> Maps:
        """Add a bias, then log(1 + exp(x))."""
        return self.transfer(x, "softplus", bias=bias, name=name)

    def tanh(self, x: Maps, a: float = 1.0, b: float = 1.0, *, bias: bool = True, name: str | None = None) -> Maps:
        """Add a bias, then a * tanh(b * x)."""
        return self.transfer(x, Transfer("tanh", (a, b)), bias=bias, name=name)

    def logistic(self, x: Maps, *, bias: bool = True, name: str | None = None) -> Maps:
        """Add a bias, then 1 / (1 + exp(-x))."""
        return self.transfer(x, "logistic", bias=bias, name=name)

    def softsign(self, x: Maps, *, bias: bool = True, name: str | None = None) -> Maps:
        """Add a bias, then x / (1 + |x|)."""
        return self.transfer(x, "softsign", bias=bias, name=name)

    def max_filter(self, x: Maps, window: Size = 2, *, stride: Size | None = None, name: str | None = None) -> Maps:
        """Take the maximum over a sliding window; later layers are dilated by the stride, the window unless given."""
        size = self._size(window, "window")
        step = size if stride is None else self._size(stride, "stride")
        return self._draft.apply(MaxFilter(size, step), x, None, name)

    def max_pool(self, x: Maps, window: Size = 2, *, name: str | None = None) -> Maps:
        """Take the maximum of windows side by side."""
        return self._draft.apply(MaxPool(self._size(window, "window")), x, None, name)

    def average_pool(self, x: Maps, window: Size = 2, *, name: str | None = None) -> Maps:
        """Take the mean of windows side by side."""
        return self._draft.apply(AveragePool(self._size(window, "window")), x, None, name)

    def upsample(self, x: Maps, factor: Size = 2, mode: str = "nearest", *, name: str | None = None) -> Maps:
        """Make the image larger by whole factors, by repeating voxels or by ``"trilinear"`` interpolation."""
        return self._draft.apply(Upsample(self._size(factor, "factor"), mode), x, None, name)

    def dropout(self, x: Maps, rate: float = 0.5, *, name: str | None = None) -> Maps:
        """Set voxels to zero with a probability while training."""
        return self._draft.apply(Dropout(rate), x, None, name)

    def norm(self, x: Maps, over: str | Normalisation = "instance", *, name: str | None = None) -> Maps:
        """Normalise every map over ``"batch"``, ``"instance"`` or ``"group(8)"``, a number of groups of maps."""
        return self._draft.apply(read_norm(over), x, None, name)

    def softmax(self, x: Maps, *, name: str | None = None) -> Maps:
        """Divide the exponentials of the maps by their sum, at every voxel."""
        return self._draft.apply(Softmax(), x, None, name)

    def identity(self, x: Maps, *, name: str | None = None) -> Maps:
        """Do nothing, by an edge of its own."""
        return self._draft.apply(Identity(), x, None, name)

    def crop(self, x: Maps, before: Size, after: Size | None = None, *, name: str | None = None) -> Maps:
        """Leave voxels out at both ends of every axis, or as many as are given for each."""
        ends = [self._amount(size, "crop") for size in (before, before if after is None else after)]
        return self._draft.apply(Crop(*ends), x, None, name)

    def crop_to(self, x: Maps, like: Maps, *, name: str | None = None) -> Maps:
        """Crop the ends to the size of another image, the larger part after where they are odd."""
        return self._draft.crop_to(x, like, name)

    def add(self, images: Sequence[Maps], *, crop: bool = False, name: str | None = None) -> Maps:
        """Sum images; with `crop` the larger are cropped to the smaller. ``a + b`` is the sum of two."""
        return self._draft.join("sum", images, crop, name)

    def concat(self, images: Sequence[Maps], *, crop: bool = False, name: str | None = None) -> Maps:
        """Put the maps of images one after the other; with `crop` the larger are cropped to the smaller."""
        return self._draft.join("concat", images, crop, name)

    def maxout(self, images: Sequence[Maps], *, crop: bool = False, name: str | None = None) -> Maps:
        """Take the largest of some images at every voxel."""
        return self._draft.join("max", images, crop, name)

    def _init(self, given: str | Init | None) -> Init:
        return self.init if given is None else read_init(given)

    def _size(self, value: Size, name: str) -> Triple:
        return as_triple(value, self.ndim, name)

    def _amount(self, value: Size, name: str) -> Triple:
        """Read voxels to add or to leave out; of a section there are none along z."""
        z, y, x = as_triple(value, self.ndim, name, minimum=0)
        return (0, y, x) if self.ndim == 2 and (isinstance(value, int) or len(value) == 2) else (z, y, x)
