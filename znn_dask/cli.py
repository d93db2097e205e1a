"""``znn-dask``: the command line.

Exit codes: 0 done; 2 bad usage or bad input, with one line on standard error; 130 Ctrl-C. Anything else is
a defect of ours and shows its traceback.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from znn_dask.commands.common import State
from znn_dask.errors import ZnnError

# Command, its module and function, and its line in the list. A command is imported when it is called, since what they
# need takes seconds to import.
COMMANDS = {
    "demo": ("znn_dask.commands.demo:demo", "Train on a made-up tissue and predict another: a minute, no data."),
    "train": ("znn_dask.commands.train:train", "Train a network on your volumes, or continue."),
    "predict": ("znn_dask.commands.predict:predict", "Run a model over a volume, here or on a cluster."),
    "segment": ("znn_dask.commands.segment:segment", "Number the objects in a prediction."),
    "evaluate": ("znn_dask.commands.evaluate:evaluate", "Compare a prediction or a segmentation with labels."),
    "show": ("znn_dask.commands.show:show", "Print a network, or draw what a configuration learns from."),
    "convert": ("znn_dask.commands.convert:convert", "Networks and models from one file format to another."),
    "tune": ("znn_dask.commands.tune:tune", "Measure which algorithms or patch sizes are fastest here."),
    "simulate": ("znn_dask.commands.simulate:simulate_command", "Say how fast many workers would be."),
}


class LazyGroup(click.Group):
    """Commands that are imported when they are asked for; the list of them imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="znn-dask")
def group() -> None:
    """Train dense 2D and 3D ConvNets on CPUs, and predict whole volumes with them.

    \b
    Example:
      znn-dask demo
      znn-dask COMMAND --help
    """


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
