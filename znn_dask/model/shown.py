"""How a model and its plan look in a notebook."""

from html import escape
from typing import Protocol

from znn_dask.net import Network


class _Known(Protocol):
    """What is asked of a model."""

    @property
    def net(self) -> Network: ...

    @property
    def plan(self) -> object: ...


def plan_html(title: str, text: str) -> str:
    """Return a plan as a headline above its table."""
    return f"<div>{_strong(title)}{_table(text)}</div>"


class Shown:
    """The part of `Model` that notebooks show."""

    def _repr_html_(self: _Known) -> str:
        """Return a headline above the network and, to be opened, how it is computed."""
        shown = getattr(self.net, "_repr_html_", None)
        network = shown() if callable(shown) else _table(str(self.net))
        how = f"<details><summary>how it is computed</summary>{_table(str(self.plan))}</details>"
        return f"<div>{_strong(repr(self).strip('<>'))}{network}{how}</div>"


def _strong(title: str) -> str:
    return f"<p><strong>{escape(title)}</strong></p>"


def _table(text: str) -> str:
    """Return aligned text so that its columns stay aligned; a wide one is scrolled."""
    return f'<pre style="white-space: pre; overflow-x: auto">{escape(text)}</pre>'
