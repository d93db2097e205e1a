"""What every task of a step takes, counted: seconds by the cost model, bytes that it reads and writes.

For those who simulate a step that this machine cannot run, or not alone. Rates are those of one core (`cost`); what
does not belong to a convolution takes the time of its bytes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from operator import getitem

from znn_dask.lower.builder import Key
from znn_dask.lower.choose import layers_of
from znn_dask.lower.cost import CALL_S, work_seconds
from znn_dask.lower.expand import expand
from znn_dask.lower.layers import NEEDS, Layer, Work, candidate_of, works
from znn_dask.lower.memory import MEMORY_RATE
from znn_dask.lower.plan import ConvolutionPlan, Plan
from znn_dask.lower.step import StepGraph
from znn_dask.net import Network
from znn_dask.tasks import Reduce

# From the operations of a layer to the words of the tasks that do them.
KINDS = {
    "direct-forward": "conv-forward",
    "winograd-forward": "conv-forward",
    "product": "conv-forward",
    "output-image": "ifft-image",
    "direct-backward": "backward-conv",
    "winograd-backward": "backward-conv",
    "product-backward": "backward-conv",
    "gradient-image": "ifft-gradient",
    "direct-gradient": "conv-gradient",
    "winograd-gradient": "conv-gradient",
    "spectral-gradient": "conv-gradient",
    "image-spectrum": "fft-image",
    "gradient-spectrum": "fft-gradient",
}
AGAIN = "backward-fft-image"  # an image's spectrum, made a second time instead of kept
Place = tuple[str, str]


def counted_bytes(graph: StepGraph) -> dict[Key, float]:
    """Return the bytes that every task of a graph reads and writes; of a sum, every addition of it."""
    found = {}
    for key, task in graph.dask.items():
        own = graph.n_bytes.get(key, 0)
        read = 2 * own if isinstance(task, Reduce) else sum(graph.n_bytes.get(other, 0) for other in task.dependencies)
        found[key] = float(own + read)
    for key, task in graph.dask.items():
        # A part is written by the task that makes the whole.
        if getattr(task, "func", None) is getitem:
            (whole,) = task.dependencies
            found[whole] += graph.n_bytes.get(key, 0)
    return found


def counted_seconds(net: Network, plan: Plan, graph: StepGraph) -> dict[Key, float]:
    """Return the seconds of every task of a graph on one core; of a sum, of every addition of it."""
    found = {key: CALL_S + moved / MEMORY_RATE for key, moved in counted_bytes(graph).items()}
    total: dict[Place, float] = defaultdict(float)
    edges = expand(net).edges
    for name, layer in layers_of(net, plan).items():
        for place, seconds in _times(name, edges[name].source, layer, plan.convolutions[name]):
            total[place] += seconds
    places = {key: _place(key) for key in graph.dask}
    count = Counter(places.values())
    return {key: total[place] / count[place] if place in total else found[key] for key, place in places.items()}


def _times(edge: str, source: str, layer: Layer, plan: ConvolutionPlan) -> Iterator[tuple[Place, float]]:
    """Yield the seconds of all tasks of a kind; those of images' spectra go by the node."""
    shared: dict[str, list[Work]] = {}
    for name in layer.passes:
        parts = works(layer, candidate_of(plan, name))
        shared |= {need: parts[need] for need in NEEDS[name] if need in parts}
        for work in parts[name]:
            yield (KINDS[work.operation], edge), layer.groups * work_seconds(work)
    for name, tasks in sorted(shared.items()):
        seconds = layer.groups * sum(map(work_seconds, tasks))
        place = source if name == "image-spectrum" else edge
        yield (KINDS[name], place), seconds
        if name == "image-spectrum":
            yield (AGAIN, place), seconds


def _place(key: Key) -> Place:
    """Return kind and name of a key such as ("conv-forward-0000002a", "conv2", 0, 3)."""
    assert isinstance(key, tuple)
    return key[0].rpartition("-")[0], key[1] if len(key) > 1 else ""
