"""How a model and its plan look in a notebook."""

from html import escape

from znn_dask.net import Network


def plan_html(title: str, text: str) -> str:
    """Return a plan as a headline above its table."""
    return f"<div>{_strong(title)}{_table(text)}</div>"


def model_html(title: str, net: Network, plan: str) -> str:
    """Return a model as a headline, above its network and, to be opened, how it is computed."""
    shown = getattr(net, "_repr_html_", None)
    network = shown() if callable(shown) else _table(str(net))
    return f"<div>{_strong(title)}{network}<details><summary>how it is computed</summary>{_table(plan)}</details></div>"


def _strong(title: str) -> str:
    return f"<p><strong>{escape(title)}</strong></p>"


def _table(text: str) -> str:
    """Return aligned text so that its columns stay aligned; a wide one is scrolled."""
    return f'<pre style="white-space: pre; overflow-x: auto">{escape(text)}</pre>'
