"""A progress bar for terminals, notebooks and files."""

import sys
from importlib.util import find_spec

from tqdm import tqdm

# The form for notebooks needs ipywidgets and warns without; the plain form is readable there too.
if find_spec("ipywidgets") is not None:
    from tqdm.auto import tqdm


def progress_bar(total: int, done: int, show: bool) -> "tqdm[None]":
    """Return a bar that counts updates."""
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(
        total=total,
        initial=done,
        unit=" updates",
        desc="training",
        disable=not show,
        dynamic_ncols=True,
        # Into a file a line now and then will do.
        mininterval=0.2 if watched else 10.0,
        # tqdm would learn from one fast stretch to look rarely, and then show an old speed for minutes.
        miniters=1,
    )
