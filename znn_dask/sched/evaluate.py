"""Inputs in, results out: one run of compiled tables, seen from outside."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from znn_dask.errors import ParameterError, nearest
from znn_dask.sched.crew import Crew
from znn_dask.sched.graph import Key, nested
from znn_dask.sched.recording import recorded
from znn_dask.sched.run import execute
from znn_dask.sched.tables import Tables


def evaluate(
    tables: Tables,
    keys: Any,
    inputs: Mapping[Key, Any],
    crew: Crew,
    n_workers: int,
    rerun: Sequence[Callable[..., Any]] = (),
) -> Any:
    """Run the tables and return the results in the nested form of the requested keys.

    The parameters are those of `execute`, and a value for each key that the graph refers to only.

    Raises
    ------
    ParameterError
        If an input is missing or unknown.
    BaseException
        What a task raised first.
    """
    check_inputs(tables, inputs)
    values = tables.values()
    for key, slot in tables.inputs.items():
        values[slot] = inputs[key]
    execute(recorded(tables, n_workers, inputs), values, crew, n_workers, rerun)
    results = nested(keys, lambda key: values[tables.results[key]])
    # A worker may hold this list a moment longer than we do.
    values.clear()
    return results


def check_inputs(tables: Tables, inputs: Mapping[Key, Any]) -> None:
    """Refuse inputs that do not match what the graph refers to."""
    if inputs.keys() == tables.inputs.keys():
        return
    for key in tables.inputs:
        if key not in inputs:
            reader = tables.keys[first_reader(tables, tables.inputs[key])]
            raise ParameterError(
                f"Missing dependency {key!r} of task {reader!r}: the graph does not give it; "
                f"add it to the graph, or compile the graph and pass it to run(inputs=...)"
            )
    unknown = next(key for key in inputs if key not in tables.inputs)
    hint = nearest(str(unknown), [str(key) for key in tables.inputs])
    raise ParameterError(f"{unknown!r} is no input of this program, which has {len(tables.inputs)}.{hint}")


def first_reader(tables: Tables, slot: int) -> int:
    """Return the first task that reads a slot, or the task without work if it is only requested."""
    return next((t for t in range(tables.n_tasks) if slot in tables.reads[t]), tables.n_tasks)
