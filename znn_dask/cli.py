"""``znn-dask``: the command line.

Exit codes: 0 done; 2 bad usage or bad input, with one line on standard error; 130 Ctrl-C. Anything else is
a defect of ours and shows its traceback.
"""

import sys
from collections.abc import Sequence

import click

from znn_dask.commands.common import State
from znn_dask.commands.convert import convert
from znn_dask.commands.demo import demo
from znn_dask.commands.evaluate import evaluate
from znn_dask.commands.predict import predict
from znn_dask.commands.segment import segment
from znn_dask.commands.show import show
from znn_dask.commands.simulate import simulate_command
from znn_dask.commands.train import train
from znn_dask.commands.tune import tune
from znn_dask.errors import ZnnError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="znn-dask")
def group() -> None:
    """Train dense 2D and 3D ConvNets on CPUs, and predict whole volumes with them.

    \b
    Example:
      znn-dask demo
    """


for command in (demo, train, predict, evaluate, segment, show, convert, tune, simulate_command):
    group.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; by default those of this process.
    """
    state = State()
    try:
        result = group.main(arguments, prog_name="znn-dask", standalone_mode=False, obj=state)
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        command = where.command_path if where is not None else "znn-dask"
        return _fail(f"{error.format_message()} See '{command} --help'", state)
    except ZnnError as error:
        return _fail(str(error), state)
    except OSError as error:
        return _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", state)
    except (click.Abort, KeyboardInterrupt):
        print("znn-dask: interrupted", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else 0


def _fail(message: str, state: State) -> int:
    """Print an error as one line, or raise it again (it is being handled) to show where it arose."""
    if state.debug:
        raise  # re-raises what the caller is handling
    print(f"znn-dask: {' '.join(message.split())}", file=sys.stderr)
    return 2
