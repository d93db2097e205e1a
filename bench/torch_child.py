"""PyTorch by itself: a process that computes one form of a network that `peers.write_sample` wrote.

    python bench/torch_child.py try SAMPLE FORM WORKERS
    python bench/torch_child.py memory SAMPLE FORM WORKERS UPDATES STEPS SECONDS

``try`` prints the seconds of the first repetitions and the difference to the answers in the sample, ``memory`` what
`rss.train` measures; both as JSON. It imports PyTorch and numpy only.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from rss import train
from torch_peer import TorchNet

RATE, MOMENTUM = 1e-6, 0.9  # as in presets.py
SHORT_S = 3.0  # repetitions below this are repeated


def read(path: str, form: str, answers: bool) -> tuple[dict[str, np.ndarray], TorchNet]:
    """Return the arrays of a sample, with the answers if wanted, and the network."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if answers or not name.startswith("gradient ")}
    layers = json.loads(str(arrays["layers"]))
    return arrays, TorchNet(torch, layers, part(arrays, "parameter "), form, RATE, MOMENTUM)


def part(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names begin so, without that."""
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def try_form(arrays: dict[str, np.ndarray], peer: TorchNet, again: bool) -> dict[str, Any]:
    """Return the least seconds and the largest difference, relative to the largest value of each array."""
    image, target = arrays["image"], arrays["target"]
    start = time.perf_counter()
    loss, theirs = peer.gradients(image, target)
    seconds = [time.perf_counter() - start]
    wrong = [abs(loss - float(arrays["loss"][0])) / abs(loss)]
    wrong += [
        float(np.abs(ours - theirs[n]).max() / np.abs(theirs[n]).max()) for n, ours in part(arrays, "gradient ").items()
    ]
    for _ in range(2 if again or seconds[0] < SHORT_S else 0):
        start = time.perf_counter()
        peer.step(image, target)
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "difference": max(wrong)}


def main() -> None:
    mode, path, form, workers, *numbers = sys.argv[1:]
    torch.set_num_threads(int(workers))
    arrays, peer = read(path, form, answers=mode == "try")
    if mode == "try":
        result = try_form(arrays, peer, again=form.endswith("compiled"))
    else:
        image, target = arrays["image"], arrays["target"]
        result = train(lambda: peer.step(image, target), *map(int, numbers))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
