"""The exceptions a user can meet, in one tree.

Every message names the thing, the value, the rule and the remedy. Commands print the message of a `ZnnError`
as one line and exit with 2; anything else is a defect of ours and keeps its traceback.
"""

import difflib


class ZnnError(Exception):
    """Anything the user can put right."""


class NetworkError(ZnnError, ValueError):
    """A network that cannot be: a cycle, an unknown letter, branches of different sparsity.

    Attributes
    ----------
    about : tuple of str, or None
        ("node" or "edge", its name), so that who read the network from a file can say where.
    """

    def __init__(self, message: str = "", about: tuple[str, str] | None = None) -> None:
        super().__init__(message)
        self.about = about


class ShapeError(ZnnError, ValueError):
    """Sizes that do not fit: too small for the field of view, image and label of different shape."""


class ParameterError(ZnnError, ValueError):
    """An argument outside its valid values, or parameters whose names or shapes do not match."""


class CycleError(ParameterError, RuntimeError):
    """Tasks that wait for each other. A RuntimeError too, as in Dask."""


class MemoryLimitError(ZnnError, ValueError):
    """No way to compute a network was found that keeps to the memory it was given."""


class ConfigError(ZnnError, ValueError):
    """A configuration file or override with an unknown key or an invalid value."""


class DataError(ZnnError, ValueError):
    """A volume that cannot be used: missing file or dataset, wrong type, not finite."""


class OutputExistsError(ZnnError, FileExistsError):
    """A file that would be overwritten without leave."""


class CheckpointError(ZnnError, ValueError):
    """A model file that is damaged, foreign, or belongs to another network."""


class SaveError(ZnnError, OSError):
    """A file of a run could not be written: the disk is full, read-only or gone. What was saved before is as it was."""


class MissingExtraError(ZnnError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


class DivergenceError(ZnnError, ArithmeticError):
    """The loss or a parameter is no longer finite, or the loss grows far beyond what it was at the start."""


def nearest(value: str, valid: list[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the valid name nearest to ``value``, or an empty string."""
    close = difflib.get_close_matches(value, valid, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
