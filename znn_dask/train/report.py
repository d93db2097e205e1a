"""One page about a run: a file of its own, with its pictures inside, to keep or to send."""

import base64
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import numpy as np

from znn_dask.geometry import volume
from znn_dask.io.atomic import replacing
from znn_dask.train.config import Config
from znn_dask.train.config_file import flat
from znn_dask.train.curve import Row, read_rows
from znn_dask.train.environment import environment
from znn_dask.train.heldout import HeldOut
from znn_dask.train.loop import Loop
from znn_dask.train.run import CURVE, CURVE_PICTURE, PREDICTION_PICTURE, REPORT
from znn_dask.viz.pictures import samples_picture

REASONS = {
    "updates": "all updates were made",
    "time": "the limit of time was reached",
    "stopped": "it was told to stop",
}
N_SAMPLES = 6
_LAST_ROWS = 12

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
p.note { color: #555; margin-top: .3rem; } img { max-width: 100%; }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; padding: 0; list-style: none; }
.figures li { background: #f3f5f7; border-radius: .4rem; padding: .5rem .9rem; }
.figures b { display: block; font-size: 1.35rem; } .figures span { color: #555; font-size: .85rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #f3f5f7; padding: .7rem; overflow-x: auto; font-size: .82rem; line-height: 1.35; }
"""


def write_report(run: Loop, found: HeldOut | None) -> None:
    """Write the report of a run into its folder.

    Parameters
    ----------
    run : Loop
        Its folder holds the pictures already.
    found : HeldOut or None
        What was measured at the end.
    """
    with replacing(run.folder / REPORT) as temporary:
        temporary.write_text(report(run, found), encoding="utf-8")


def report(run: Loop, found: HeldOut | None) -> str:
    """Return the page, which names no folder of this machine."""
    rows = read_rows(run.folder / CURVE)
    title = escape(run.folder.resolve().name)
    why = REASONS.get(run.reason, run.reason)
    parts = [
        f"<h1>{title}</h1>",
        f'<p class="note">{run.step:,} updates in {run.seconds / 60:.1f} minutes; {escape(why)}.</p>',
        _figures(run, found),
        "<h2>Learning curve</h2>",
        _image((run.folder / CURVE_PICTURE).read_bytes(), "loss, errors and scores over updates") if rows else "",
        _details("The last rows", _rows(rows[-_LAST_ROWS:])) if rows else "",
        *_prediction(run, found),
        *_samples(run),
        "<h2>Network</h2>",
        f"<pre>{escape(str(run.model.net))}</pre>",
        _details("How it was computed", f"<pre>{escape(str(run.model.plan))}</pre>"),
        "<h2>Configuration</h2>",
        f'<p class="note">Classes that are balanced: {escape(str(run.balance))}.</p>' if str(run.balance) else "",
        *_configuration(run.config),
        "<h2>Speed</h2>",
        _table(_speed(run)),
        "<h2>Environment</h2>",
        _table(environment(run.model.num_workers, run.parallel)),
    ]
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    body = "\n".join(part for part in parts if part)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def without_folders(text: str) -> str:
    """Return a name of a file without its folders, the dataset in it kept: ``a/b.h5:/c`` becomes ``b.h5:/c``."""
    if "://" in text and not text.startswith("file://"):
        return text
    path, colon, dataset = text.removeprefix("file://").partition(":/")
    return path.rpartition("/")[2].rpartition("\\")[2] + colon + dataset


def _figures(run: Loop, found: HeldOut | None) -> str:
    figures: list[tuple[str, str]] = []
    if found is not None:
        figures += [(f"{found.scores.error:.4f}", "held-out error"), (f"{found.scores.f1:.3f}", "F1")]
        if (cut := found.chosen or found.segments) is not None:
            voi = cut.voi_split + cut.voi_merge
            figures += [
                (f"{cut.rand_error:.4f}", f"adapted Rand error at {cut.threshold:g}"),
                (f"{voi:.3f}", "variation of information, bits"),
            ]
    if run.position.best_error is not None:
        name = "adapted Rand error" if run.config.data.target == "ids" else "error"
        figures.append((f"{run.position.best_error:.4f}", f"best {name}, update {run.position.best_step:,}"))
    figures += [(value, name) for name, value in list(_speed(run).items())[:2]]
    items = "".join(f"<li><b>{escape(value)}</b><span>{escape(name)}</span></li>" for value, name in figures)
    return f'<ul class="figures">{items}</ul>'


def _prediction(run: Loop, found: HeldOut | None) -> Iterable[str]:
    picture = run.folder / PREDICTION_PICTURE
    if found is None or not picture.exists():
        return
    scores, baseline = found.scores, found.baseline
    yield "<h2>Prediction</h2>"
    yield '<p class="note">The middle section of the first held-out region.</p>'
    yield _image(picture.read_bytes(), "image, truth and prediction")
    table = {
        "fraction of wrong voxels at 0.5": f"{scores.error:.4f}",
        "at the best threshold": f"{scores.best_error:.4f} ({scores.best_threshold:.3f}, chosen on these data)",
        "always the more frequent class": f"{scores.majority_error:.4f}",
        "best threshold on the smoothed image": f"{baseline.error:.4f}",
        "precision, recall": f"{scores.precision:.3f}, {scores.recall:.3f}",
    }
    for cut in filter(None, (found.segments, found.chosen)):
        at = f"at {cut.threshold:g}" + (", the best where was learnt from" if cut is found.chosen else "")
        table |= {
            f"adapted Rand error {at}": f"{cut.rand_error:.4f}",
            f"variation of information {at}": f"{cut.voi_split:.3f} split + {cut.voi_merge:.3f} merge bits",
            f"segments, cells {at}": f"{cut.segments:,}, {cut.cells:,} ({run.segments.method})",
        }
    yield _table(table)


def _samples(run: Loop) -> Iterable[str]:
    patches = []
    for step in range(N_SAMPLES):
        sample = run.samples.sample(step)
        image, target = (_section_stack(values) for values in tuple(sample)[:2])
        if image is None or target is None:
            return
        patches.append((image, target))
    yield "<h2>Samples</h2>"
    yield '<p class="note">What the first updates learnt from; the target lies in the frame.</p>'
    yield _image(samples_picture(patches), "patches and their targets")


def _section_stack(values: Any) -> np.ndarray | None:
    """Return the first channel of the first example, (z, y, x); None for what cannot be drawn so."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or not 3 <= array.ndim <= 5:
        return None
    first: np.ndarray = array[(0,) * (array.ndim - 3)]
    return first


def _configuration(config: Config) -> Iterable[str]:
    """Yield what was chosen, and in a part that opens, everything."""
    values, default = flat(config), flat(Config())
    chosen = {k: v for k, v in values.items() if (default[k] != v if k in default else v is not None)}
    yield _table({key: _text(value) for key, value in chosen.items()} or {"": "everything as by default"})
    yield _details("All keys", _table({key: _text(value) for key, value in values.items()}))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return without_folders(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    return str(value)


def _speed(run: Loop) -> dict[str, str]:
    position, model = run.position, run.model
    seconds = position.step_seconds or float("nan")
    size = model.output_size
    sizes = size.values() if isinstance(size, dict) else [size]
    voxels = sum(volume(each) for each in sizes) * model.plan.plan.batch
    return {
        "updates per second": f"{position.step / seconds:,.1f}",
        "output voxels per second": f"{voxels * position.step / seconds:,.0f}",
        "output voxels of an update": f"{voxels:,}",
        "seconds of updates": f"{position.step_seconds:,.1f}",
        "seconds of tests, pictures and files": f"{max(0.0, position.seconds - position.step_seconds):,.1f}",
    }


def _rows(rows: list[Row]) -> str:
    names = [name for name in vars(rows[0]) if any(getattr(row, name) is not None for row in rows)]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = ["".join(f'<td class="number">{_cell(getattr(row, name))}</td>' for name in names) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _table(values: Mapping[str, str]) -> str:
    rows = (f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in values.items())
    return f"<table>{''.join(rows)}</table>"


def _details(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
