"""PyTorch's forms tried one by one, each in a process of its own that is ended when it takes too long.

A convolution of the wrong layout can take a minute, and a compiler can hang: neither may hold up a benchmark. What is
within reach of the best form then takes part in the alternating repetitions.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch_peer import Layer, forms_of

CHILD = Path(__file__).with_name("torch_child.py")
TOLERANCE = 1e-3  # of the largest value: both sides are float32 and sum in other orders
HOPELESS = 5.0  # times the best form after one repetition
COMPILED = " compiled"
COMPILATION_S = 30.0
NO_TIME = "no time left"
LEAST_S = 8.0  # a process cannot even start in less


@dataclass(frozen=True)
class Tried:
    """What came of a form: its seconds, or why there are none.

    Attributes
    ----------
    seconds : float or None
        Of the better of its first repetitions, without compilation.
    difference : float or None
        To our loss and gradients, relative to the largest value of each.
    note : str
        Why it takes no part, empty if it does.
    """

    seconds: float | None = None
    difference: float | None = None
    note: str = ""


def difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """Return the largest difference of any array, relative to its largest value."""
    return max(float(np.abs(ours[n] - theirs[n]).max() / np.abs(theirs[n]).max()) for n in ours)


def write_sample(
    path: Path, layers: list[Layer], image: Any, target: Any, parameters: Any, loss: float, gradients: Any
) -> None:
    """Write what a process with PyTorch needs to know for an answer and its check."""
    arrays = {f"parameter {name}": value for name, value in parameters.items()}
    arrays |= {f"gradient {name}": value for name, value in gradients.items()}
    np.savez(path, layers=np.array(json.dumps(layers)), image=image, target=target, loss=np.array([loss]), **arrays)


def try_all(layers: list[Layer], sample: Path, workers: int, limit_s: float, budget_s: float) -> dict[str, Tried]:
    """Return what came of every form, within some seconds for each and for all.

    Compiled forms come last, the ones whose plain form is fastest first; they may take a minute to compile.
    """
    until = time.monotonic() + budget_s
    found: dict[str, Tried] = {}

    def attempt(form: str, most_s: float) -> None:
        left_s = until - time.monotonic()
        tried = try_one(form, sample, workers, min(most_s, left_s))
        if tried.seconds is None and left_s < most_s and not tried.note.startswith("fails"):
            tried = Tried(note=f"{tried.note}: {NO_TIME}")
        found[form] = tried
        print(f"  {form:36} {describe(found[form])}", flush=True)

    forms = forms_of(layers)
    plain = [form for form in forms if not form.endswith(COMPILED)]
    for form in plain:
        attempt(form, limit_s)
    for form in sorted(plain, key=lambda form: found[form].seconds or float("inf")):
        attempt(form + COMPILED, limit_s + COMPILATION_S)
    return {form: _judged(tried, found) for form, tried in found.items()}


def is_hopeless(tried: Tried, found: dict[str, Tried]) -> bool:
    """Whether a form failed, or took many times as long as the best."""
    best = min((t.seconds for t in found.values() if t.seconds is not None), default=None)
    return tried.seconds is None or (best is not None and tried.seconds > HOPELESS * best)


def _judged(tried: Tried, found: dict[str, Tried]) -> Tried:
    if tried.note or not is_hopeless(tried, found):
        return tried
    return Tried(tried.seconds, tried.difference, f"more than {HOPELESS:.0f} times the best form: one repetition only")


def try_one(form: str, sample: Path, workers: int, limit_s: float) -> Tried:
    """Run one form in a process of its own for at most some seconds."""
    if limit_s < LEAST_S:
        return Tried(note="not tried")
    command = [sys.executable, str(CHILD), "try", str(sample), form, str(workers)]
    pipe = subprocess.PIPE
    # A session of its own: the compiler's processes end with it.
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            out, errors = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return Tried(note=f"ended after {limit_s:.0f} s")
    if process.returncode:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        return Tried(note=f"fails: {last[:200]}")
    tried = Tried(**json.loads(out.strip().splitlines()[-1]))
    if tried.difference is None or not tried.difference < TOLERANCE:
        sys.exit(f"the answers differ from PyTorch's ({form}) by {tried.difference}: nothing was timed")
    return tried


def describe(tried: Tried) -> str:
    """Return a line about what came of a form."""
    equal = "" if tried.difference is None else f", equal within {tried.difference:.1e}"
    return (f"{tried.seconds * 1e3:9.1f} ms{equal}  " if tried.seconds is not None else "") + tried.note


def affordable(
    tried: dict[str, Tried], others: Sequence[float], repetitions: int, budget_s: float
) -> tuple[list[str], dict[str, str]]:
    """Return the forms whose repetitions fit into some seconds, the fastest first, and why others do not.

    The fastest form always takes part, whatever it takes.
    """
    able = sorted((t.seconds, form) for form, t in tried.items() if t.seconds is not None and not t.note)
    kept: list[str] = []
    dropped: dict[str, str] = {}
    left = budget_s - sum(others) * (repetitions + 1)
    for seconds, form in able:
        left -= seconds * (repetitions + 2)
        if kept and left < 0:
            dropped[form] = f"{seconds / able[0][0]:.2f} times the best form: no time for repetitions"
        else:
            kept.append(form)
    return kept, dropped
