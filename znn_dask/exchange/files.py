"""Modules of PyTorch from memory and files, and back to files."""

import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import CheckpointError, MissingExtraError, NetworkError, ParameterError
from znn_dask.exchange.archive import read_program
from znn_dask.exchange.modules import import_torch, module_names, network_of, to_module
from znn_dask.exchange.reading import Found, read_network
from znn_dask.exchange.state import from_layer, key_of
from znn_dask.geometry import Triple
from znn_dask.io.atomic import replacing
from znn_dask.net import Network

Array = npt.NDArray[Any]
_NESTED = ("state_dict", "model_state_dict", "model")  # where checkpoints of others keep the weights


def read_module(module: Any, example_input: Any) -> Found:
    """Return the network of a module.

    Parameters
    ----------
    module : torch.nn.Module
        Recorded in evaluation mode; it is left as it was.
    example_input : tensor or array of shape (batch, channel, [z,] y, x), or tuple of these
        With which the module is recorded.

    Raises
    ------
    NetworkError
        If it computes something that has no place in a network, or cannot be recorded.
    """
    torch = import_torch()
    if not isinstance(module, torch.nn.Module):
        raise ParameterError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    examples = example_input if isinstance(example_input, tuple | list) else (example_input,)
    tensors = tuple(each if isinstance(each, torch.Tensor) else torch.as_tensor(np.asarray(each)) for each in examples)
    net = network_of(module)
    if net is not None:
        return _ours(module, net, tensors)
    buffer = io.BytesIO()
    _save_program(torch, module, tensors, buffer)
    return read_network(read_program(buffer, "the module"))


def _ours(module: Any, net: Network, tensors: Sequence[Any]) -> Found:
    """Return the network of a module that was made of one."""
    if len(tensors) != len(net.inputs) or any(each.ndim != module.ndim + 2 for each in tensors):
        raise ParameterError(
            f"example_input must be an image of {module.ndim + 2} axes for each of {', '.join(net.inputs)}"
        )
    sizes = {name: (1, *each.shape[2:])[-3:] for name, each in zip(net.inputs, tensors, strict=True)}
    made = net.output_size(sizes)
    parameters = state_parameters({key: each.detach().numpy() for key, each in module.state_dict().items()}, net)
    names = module_names(net)
    origins = {name: key_of(name, names) for name in net.parameters}
    return Found(net, parameters, origins, made if isinstance(made, dict) else dict.fromkeys(net.outputs, made))


def read_pt2(path: str | Path) -> Found:
    """Return the network in a file of torch.export. PyTorch is not needed, and nothing in the file is run.

    Raises
    ------
    CheckpointError
        If the file cannot be read.
    NetworkError
        If it computes something that has no place in a network.
    """
    try:
        return read_network(read_program(path))
    except NetworkError as error:
        raise NetworkError(f"{path}: {error}") from error


def write_pt2(
    net: Network, parameters: Mapping[str, Array], path: str | Path, input_size: Mapping[str, Triple]
) -> None:
    """Write a network with torch.export, for images of one size."""
    torch = import_torch()
    module = to_module(net, parameters)
    buffer = io.BytesIO()
    _save_program(torch, module, examples(net, module, input_size), buffer)
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(buffer.getvalue())


def write_state(net: Network, parameters: Mapping[str, Array], path: str | Path) -> None:
    """Write the state dict of the module of a network."""
    torch = import_torch()
    with replacing(Path(path)) as temporary:
        torch.save(to_module(net, parameters).state_dict(), temporary)


def read_state(path: str | Path, net: Network) -> dict[str, Array]:
    """Read a state dict into the parameters of a network; only arrays are unpickled.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or holds anything but arrays.
    ParameterError
        If its arrays are not those of the network.
    """
    torch = import_torch()
    if not Path(path).is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of the reader
        reason = str(error).strip().split("\n")[0][:200]
        raise CheckpointError(
            f"{path} is damaged, or no state dict of PyTorch that can be read without running code ({reason})"
        ) from error
    try:
        return state_parameters(_arrays(torch, state), net)
    except (ParameterError, CheckpointError) as error:
        raise type(error)(f"{path}: {error}") from error


def state_parameters(state: Mapping[str, Array], net: Network) -> dict[str, Array]:
    """Return the parameters of a network from the arrays of the state dict of its module.

    Raises
    ------
    ParameterError
        Naming what is missing or of another shape.
    """
    names = module_names(net)
    found = {}
    for name, parameter in net.parameters.items():
        key = key_of(name, names)
        if key not in state:
            raise ParameterError(
                f"there is no {key!r} for parameter {name!r} of the network. Keys: {', '.join(list(state)[:20])}"
            )
        values = from_layer(net.edges[name.rpartition("/")[0]], state[key])
        if values.shape != parameter.shape:
            raise ParameterError(f"{key!r} has shape {state[key].shape}; parameter {name!r} needs {parameter.shape}")
        found[name] = values
    keys = {key_of(name, names) for name in net.parameters}
    unknown = [key for key in state if key not in keys and not key.endswith("num_batches_tracked")]
    if unknown:
        raise ParameterError(f"the network has nothing for {', '.join(map(repr, unknown[:5]))}")
    return found


def write_onnx(
    net: Network, parameters: Mapping[str, Array], path: str | Path, input_size: Mapping[str, Triple]
) -> None:
    """Write a network in the form of ONNX, for images of one size and batches of any.

    Raises
    ------
    MissingExtraError
        If PyTorch, onnx or onnxscript are not installed.
    """
    torch = import_torch()
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("ONNX files need the extra: pip install 'znn-dask[onnx]'") from error
    module = to_module(net, parameters)
    inputs = tuple(each.expand(2, *each.shape[1:]).contiguous() for each in examples(net, module, input_size))
    batch = torch.export.Dim("batch")
    with replacing(Path(path)) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # It tells of every operation of torchvision that is missing, which no network here has.
        logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
        torch.onnx.export(
            module,
            inputs,
            str(temporary),
            input_names=list(net.inputs),
            output_names=list(net.outputs),
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def examples(net: Network, module: Any, input_size: Mapping[str, Triple]) -> tuple[Any, ...]:
    """Return inputs of zeros for the module of a network."""
    torch = import_torch()
    flat = module.ndim == 2
    return tuple(
        torch.zeros(1, channels, *(input_size[name][1:] if flat else input_size[name]))
        for name, channels in net.inputs.items()
    )


def _save_program(torch: Any, module: Any, inputs: Sequence[Any], buffer: io.BytesIO) -> None:
    """Record a module and write it; its mode is as before."""
    modes = [(each, each.training) for each in module.modules()]
    try:
        module.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, tuple(inputs))
            torch.export.save(program, buffer)
    except Exception as error:  # whatever a module does while it is recorded
        reason = str(error).strip().split("\n")[0][:300]
        raise NetworkError(
            f"torch.export cannot record the module: {type(error).__name__}: {reason}. It must run with the example "
            "input, and what it does must not depend on the values of images"
        ) from error
    finally:
        for each, training in modes:
            each.training = training


def _arrays(torch: Any, state: Any) -> dict[str, Array]:
    """Return the arrays of what was loaded: a state dict, or a checkpoint that holds one."""
    for key in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(each, torch.Tensor) for each in state.values()):
        raise CheckpointError("it is no state dict: a mapping of names to tensors")
    arrays = {str(key): values.detach().to(torch.float32).numpy() for key, values in state.items()}
    while arrays and all(key.startswith(("module.", "_orig_mod.")) for key in arrays):
        arrays = {key.partition(".")[2]: values for key, values in arrays.items()}
    return arrays
