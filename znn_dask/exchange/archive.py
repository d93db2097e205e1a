"""Reading a ``.pt2`` file of torch.export, without PyTorch and without running anything that stands in it.

It is a zip archive of a graph in JSON and of arrays as they lie in memory. PyTorch also keeps its example inputs there,
pickled; these are not read, and arrays that are pickled are refused.
"""

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from znn_dask.errors import CheckpointError
from znn_dask.exchange.program import Call, Program, Reference, Weight

Array = npt.NDArray[Any]
# Numbers of dtypes in the JSON; bfloat16 is the upper half of a float32.
_BFLOAT16 = 13
_DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f2", 7: "<f4", 8: "<f8", 12: "?", _BFLOAT16: "<u2"}
_STRIDED = 7  # the layout of ordinary arrays
_SCHEMA = 8  # the major version of the JSON that is understood
_COPIES = 4  # most times that the arrays may be as large as their file
_ANSWERS = (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, OverflowError)
_BROKEN = (*_ANSWERS, OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError)


def read_program(file: str | Path | IO[bytes], name: str | None = None) -> Program:
    """Read what torch.export saved.

    Parameters
    ----------
    file : path or binary file
    name : str, optional
        What to call it in messages.

    Raises
    ------
    CheckpointError
        Naming the file, if it is missing, damaged, of another version, or holds arrays that are pickled.
    """
    name = str(file) if name is None else name
    if isinstance(file, str | Path) and not Path(file).is_file():
        raise CheckpointError(f"there is no file {name}")
    try:
        with zipfile.ZipFile(file) as archive:
            return _read(_Archive(archive))
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error
    except _BROKEN as error:
        raise CheckpointError(
            f"{name} is damaged or no file of torch.export ({type(error).__name__}: {error}). Write it again with "
            "torch.export.save"
        ) from error


class _Archive:
    """The parts of the archive, none of them packed: so none is larger than the file."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        infos = archive.infolist()
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise CheckpointError("its parts are packed, which torch.export does not do")
        self.size = sum(info.file_size for info in infos)
        self.names = {info.filename.partition("/")[2]: info.filename for info in infos}

    def read(self, part: str) -> bytes:
        if part not in self.names:
            raise CheckpointError(f"part {part!r} is missing; older versions of PyTorch write another form")
        return self.archive.read(self.names[part])

    def json(self, part: str) -> Any:
        return json.loads(self.read(part))


def _read(archive: _Archive) -> Program:
    models = [part for part in archive.names if part.startswith("models/") and part.endswith(".json")]
    if len(models) != 1:
        raise CheckpointError(
            f"it holds {len(models)} models; one is needed; older versions of PyTorch write another form"
        )
    model = models[0].removeprefix("models/").removesuffix(".json")
    document = archive.json(models[0])
    version = document["schema_version"]["major"]
    if version != _SCHEMA:
        raise CheckpointError(f"its form is version {version!r}, which is not understood; {_SCHEMA} is")
    arrays = {**_arrays(archive, "weights", model), **_arrays(archive, "constants", model)}
    module = document["graph_module"]
    graph, signature = module["graph"], module["signature"]
    weights, inputs = _inputs(signature["input_specs"], arrays)
    root = next(each["signature"] for each in module["module_call_graph"] if each["fqn"] == "")
    arguments = list(root.get("forward_arg_names") or [])
    arguments += inputs[len(arguments) :]
    return Program(
        inputs=dict(zip(inputs, map(str, arguments), strict=False)),
        outputs=_outputs(signature["output_specs"], json.loads(root["out_spec"])[1]),
        weights=weights,
        shapes={str(key): _ints(meta["sizes"]) for key, meta in graph["tensor_values"].items()},
        calls=tuple(_call(node) for node in graph["nodes"]),
    )


def _arrays(archive: _Archive, folder: str, model: str) -> dict[str, Array]:
    """Return the arrays of a folder by their paths in the module."""
    part = "weights" if folder == "weights" else "constants"
    described = archive.json(f"data/{folder}/{model}_{part}_config.json")["config"]
    raw: dict[str, bytes] = {}
    found: dict[str, Array] = {}
    for name, about in described.items():
        if about["use_pickle"]:
            raise CheckpointError(f"{name!r} is pickled, and could run code when it is read; it is refused")
        path = about["path_name"]
        if path not in raw:
            raw[path] = archive.read(f"data/{folder}/{path}")
        found[str(name)] = _array(raw[path], about["tensor_meta"], str(name))
    if sum(values.nbytes for values in found.values()) > _COPIES * archive.size:
        raise CheckpointError("its arrays overlap so often that they are much larger than the file")
    return found


def _array(raw: bytes, meta: Mapping[str, Any], name: str) -> Array:
    code = meta["dtype"]
    if meta["layout"] != _STRIDED or code not in _DTYPES:
        raise CheckpointError(f"array {name!r} has layout {meta['layout']!r} and dtype {code!r}, which are not read")
    flat: Array = np.frombuffer(raw, _DTYPES[code])
    shape, strides = _ints(meta["sizes"]), _ints(meta["strides"])
    (offset,) = _ints([meta["storage_offset"]])
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    size: int = math.prod(list(shape))
    if size > flat.size or (size and last >= flat.size):
        raise CheckpointError(f"array {name!r} of shape {shape} is larger than what is stored of it")
    if not size:
        return np.zeros(shape, np.float32)
    # Within the bounds that were checked above.
    steps = tuple(step * flat.itemsize for step in strides)
    values: Array = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)
    if code == _BFLOAT16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _ints(values: list[Any]) -> tuple[int, ...]:
    found = tuple(value["as_int"] if isinstance(value, dict) else value for value in values)
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in found):
        raise CheckpointError(f"a size {values!r} is not of whole numbers; export with fixed sizes, not dynamic ones")
    return found


def _inputs(specs: list[Any], arrays: Mapping[str, Array]) -> tuple[dict[str, Weight], list[str]]:
    """Return the weights by tensor, and the tensors that users give."""
    weights, inputs = {}, []
    for spec in specs:
        ((kind, about),) = spec.items()
        if kind == "user_input":
            argument = about["arg"]
            if "as_tensor" in argument:
                inputs.append(str(argument["as_tensor"]["name"]))
            continue
        path = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
        if kind not in path:
            raise CheckpointError(f"it has an input of the kind {kind!r}, which is not understood")
        name = str(about[path[kind]])
        if name not in arrays:
            raise CheckpointError(f"array {name!r} is missing")
        weights[str(about["arg"]["name"])] = Weight(name, arrays[name], kind == "parameter")
    return weights, inputs


def _outputs(specs: list[Any], tree: Mapping[str, Any]) -> dict[str, str]:
    """Return the tensors that come out, by the keys of the dict or the places in the list that holds them."""
    tensors = [spec["user_output"]["arg"]["as_tensor"]["name"] for spec in specs if "user_output" in spec]
    names = _leaves(tree, "")
    if len(tensors) == 1:
        names = [names[0] or "output"]
    if len(set(names)) != len(tensors):
        names = [f"output{place}" for place in range(len(tensors))]
    return dict(zip(names, map(str, tensors), strict=True))


def _leaves(tree: Mapping[str, Any], path: str) -> list[str]:
    children = tree["children_spec"]
    if not children:
        return [path]
    keys = [str(place) for place in range(len(children))]
    if str(tree["type"]).endswith("dict"):
        keys = [str(key) for key in json.loads(tree["context"])]
    elif not path:
        keys = [f"output{key}" for key in keys] if len(keys) > 1 else [""]
    return [name for key, child in zip(keys, children, strict=True) for name in _leaves(child, _under(path, key))]


def _under(path: str, key: str) -> str:
    return f"{path}.{key}" if path and key else path or key


def _call(node: Mapping[str, Any]) -> Call:
    namespace, _, rest = str(node["target"]).removeprefix("torch.ops.").partition(".")
    target, _, overload = rest.partition(".")
    if namespace != "aten":
        target, overload = f"{namespace}.{target}", overload
    about = node["metadata"]
    path, kind = "", ""
    if about.get("nn_module_stack"):
        _, path, kind = str(about["nn_module_stack"]).split(";")[-1].split(",", 2)
    args = {str(each["name"]): _argument(each["arg"]) for each in node["inputs"]}
    outputs = [name for each in node["outputs"] for name in _names(each)]
    return Call(target, overload, args, tuple(outputs), path, kind, _line(str(about.get("stack_trace", ""))))


def _names(output: Mapping[str, Any]) -> list[str]:
    ((kind, value),) = output.items()
    if kind == "as_tensor":
        return [str(value["name"])]
    return [str(each["name"]) for each in value] if kind == "as_tensors" else [""]


def _argument(argument: Mapping[str, Any]) -> Any:
    """Return an argument as a plain value; what cannot be one becomes its JSON, which no operation accepts."""
    ((kind, value),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_tensor":
            return Reference(str(value["name"]))
        case "as_tensors":
            return [Reference(str(each["name"])) for each in value]
        case "as_optional_tensor":
            return Reference(str(value["as_tensor"]["name"])) if "as_tensor" in value else None
        case "as_int" | "as_float" | "as_bool" | "as_string" | "as_ints" | "as_floats" | "as_bools" | "as_scalar_type":
            return float(value) if kind == "as_float" else value
    return argument


def _line(trace: str) -> str:
    """Return the last line of somebody's own code in a trace."""
    lines = [line.strip() for line in trace.splitlines()]
    own = [line for line in lines if line.startswith('File "') and "/torch/" not in line.replace("\\", "/")]
    if not own:
        return ""
    path, _, rest = own[-1].removeprefix('File "').partition('"')
    return f"{Path(path).name},{rest.partition(', in ')[0].removeprefix(',')}"
