"""What commands share: the --debug option and how results are told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

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


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write figures to a file."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a picture to a file."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
