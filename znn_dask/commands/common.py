"""What commands share: options, regions and how results are told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from znn_dask.errors import ParameterError
from znn_dask.io.atomic import replacing

_Function = TypeVar("_Function", bound=Callable[..., Any])


class State:
    """What the main function must know after a command failed."""

    debug = False


def debug_option(function: _Function) -> _Function:
    """Give a command the option --debug."""

    def note(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            context.ensure_object(State).debug = True

    decorate: Callable[[_Function], _Function] = click.option(
        "--debug", is_flag=True, expose_value=False, callback=note, help="Show the traceback of an error."
    )
    return decorate(function)


def workers_option(function: _Function) -> _Function:
    """Give a command the option --workers."""
    decorate: Callable[[_Function], _Function] = click.option(
        "--workers", type=click.IntRange(min=1), help="Threads.  [default: all CPUs this process may use]"
    )
    return decorate(function)


def parse_region(text: str | None, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Read ``40:50,:,10:90`` as a box of a volume; axes that are not named are whole.

    Raises
    ------
    ParameterError
        If it is written otherwise, or reaches outside.
    """
    parts = [] if text is None else text.split(",")
    if len(parts) > 3:
        raise ParameterError(f"region {text!r} has {len(parts)} parts; a volume has three axes, z,y,x")
    box = []
    for number, length in enumerate(shape):
        low, colon, high = (parts[number] if number < len(parts) else ":").strip().partition(":")
        if not colon or not all(part == "" or part.isdecimal() for part in (low, high)):
            raise ParameterError(f"region {text!r} must be FROM:TO for z, y, x, for instance 40:50,:,10:90")
        start, stop = int(low or 0), int(high or length)
        if not 0 <= start < stop <= length:
            raise ParameterError(
                f"region {text!r} wants {start} to {stop} along {'zyx'[number]}, which has 0 to {length}"
            )
        box.append(slice(start, stop))
    return tuple(box)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write figures to a file."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
