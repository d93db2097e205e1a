"""
The inner loops. Use them through znn_dask.ops, which has the documentation.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray

def isa() -> str: ...
def lanes() -> int: ...
def empty(shape: Sequence[int]) -> NDArray[numpy.float32]: ...
def empty_uint8(shape: Sequence[int]) -> NDArray[numpy.uint8]: ...
def empty_uint16(shape: Sequence[int]) -> NDArray[numpy.uint16]: ...
def trim() -> None: ...
def pool_counts() -> tuple[int, int, int]: ...
def direct_forward(
    images: Sequence[
        Annotated[
            NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
        ]
    ],
    kernels: Sequence[
        Annotated[
            NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
        ]
    ],
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu")],
) -> None: ...
def direct_gradient(
    image: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
    ],
    d_out: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
    ],
    d_kernel: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu")],
) -> None: ...
def spectral_product(
    images: Sequence[
        Annotated[
            NDArray[numpy.float32],
            dict(shape=(None, None, None, None, None, None), order="C", device="cpu", writable=False),
        ]
    ],
    kernels: Sequence[
        Annotated[
            NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
        ]
    ],
    transform: Sequence[int],
    twiddles: Sequence[
        Annotated[NDArray[numpy.float32], dict(shape=(None, None, None), order="C", device="cpu", writable=False)]
    ],
    backward: bool,
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None, None), order="C", device="cpu")],
) -> None: ...
def stored_product(
    images: Sequence[
        Annotated[
            NDArray[numpy.float32],
            dict(shape=(None, None, None, None, None, None), order="C", device="cpu", writable=False),
        ]
    ],
    kernels: Sequence[
        Annotated[
            NDArray[numpy.float32],
            dict(shape=(None, None, None, None, None, None), order="C", device="cpu", writable=False),
        ]
    ],
    transform: Sequence[int],
    backward: bool,
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None, None), order="C", device="cpu")],
) -> None: ...
def spectral_gradient(
    image: Annotated[
        NDArray[numpy.float32],
        dict(shape=(None, None, None, None, None, None), order="C", device="cpu", writable=False),
    ],
    d_out: Annotated[
        NDArray[numpy.float32],
        dict(shape=(None, None, None, None, None, None), order="C", device="cpu", writable=False),
    ],
    transform: Sequence[int],
    twiddles: Sequence[
        Annotated[NDArray[numpy.float32], dict(shape=(None, None, None), order="C", device="cpu", writable=False)]
    ],
    d_kernel: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu")],
) -> None: ...
def stored_gradient(
    image: Annotated[
        NDArray[numpy.float32],
        dict(shape=(None, None, None, None, None, None), order="C", device="cpu", writable=False),
    ],
    d_out: Annotated[
        NDArray[numpy.float32],
        dict(shape=(None, None, None, None, None, None), order="C", device="cpu", writable=False),
    ],
    transform: Sequence[int],
    d_kernel: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, None, None, None, None), order="C", device="cpu")
    ],
) -> None: ...
def gather_tile(
    image: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, None, None), order="C", device="cpu", writable=False)
    ],
    origin: Sequence[int],
    filled: Sequence[int],
    first: int,
    count: int,
    tile: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order="C", device="cpu")],
) -> None: ...
def scatter_tile(
    tile: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, None, None), order="C", device="cpu", writable=False)
    ],
    skip: Sequence[int],
    size: Sequence[int],
    scale: float,
    add: bool,
    origin: Sequence[int],
    first: int,
    count: int,
    image: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order="C", device="cpu")],
) -> None: ...
def split_complex(
    tile: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, None, None), order="C", device="cpu", writable=False)
    ],
    first: int,
    count: int,
    spectrum: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu")],
) -> None: ...
def join_complex(
    spectrum: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
    ],
    first: int,
    count: int,
    tile: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None), order="C", device="cpu")],
) -> None: ...
def transfer_forward(
    image: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
    ],
    bias: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)],
    function: int,
    a: float,
    b: float,
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu")],
) -> None: ...
def transfer_backward(
    d_out: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
    ],
    out: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
    ],
    function: int,
    a: float,
    b: float,
    d_image: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu")],
    d_bias: Annotated[NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu")],
) -> None: ...
def dropout(
    image: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
    ],
    entries: Annotated[NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)],
    all_entries: int,
    all_channels: int,
    first_channel: int,
    key: int,
    rate: float,
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu")],
) -> None: ...
def sgd(
    parameter: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)],
    velocity: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)],
    gradient: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)],
    rate: float,
    momentum: float,
    decay: float,
    new_parameter: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")],
    new_velocity: Annotated[NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu")],
) -> None: ...
def filter_forward_uint8(
    image: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
    ],
    window: Sequence[int],
    stride: Sequence[int],
    pool: bool,
    group: int,
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu")],
    argmax: Annotated[NDArray[numpy.uint8], dict(shape=(None, None, None, None, None), order="C", device="cpu")],
) -> None: ...
def filter_forward_uint16(
    image: Annotated[
        NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
    ],
    window: Sequence[int],
    stride: Sequence[int],
    pool: bool,
    group: int,
    out: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu")],
    argmax: Annotated[NDArray[numpy.uint16], dict(shape=(None, None, None, None, None), order="C", device="cpu")],
) -> None: ...
def filter_backward_uint8(
    d_out: Sequence[
        Annotated[
            NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
        ]
    ],
    argmax: Sequence[
        Annotated[
            NDArray[numpy.uint8], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
        ]
    ],
    window: Sequence[int],
    stride: Sequence[int],
    pool: bool,
    d_image: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu")],
) -> None: ...
def filter_backward_uint16(
    d_out: Sequence[
        Annotated[
            NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
        ]
    ],
    argmax: Sequence[
        Annotated[
            NDArray[numpy.uint16], dict(shape=(None, None, None, None, None), order="C", device="cpu", writable=False)
        ]
    ],
    window: Sequence[int],
    stride: Sequence[int],
    pool: bool,
    d_image: Annotated[NDArray[numpy.float32], dict(shape=(None, None, None, None, None), order="C", device="cpu")],
) -> None: ...
