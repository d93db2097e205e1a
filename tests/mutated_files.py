"""Damaged files, made from good ones by a seed, and what becomes of reading them.

Run as a script it reads many in one process, under a limit of memory and with a clock for each, and prints what came of
every one: ``error`` (a `ZnnError`), ``network``, or the exception that should not have been.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

import znn_dask as znn
from znn_dask.io import hdf5_child, znn_hdf5
from znn_dask.io.checkpoint import read_checkpoint
from znn_dask.model.znn_file import interpret

NET = znn.Network.parse("CTMDCT", width=3, kernel=2, out_channels=2, transfer=["tanh(1.7, 0.6)", "linear"])
SECONDS = 4.0  # of computing that reading one small file may take
MEMORY = 512 << 20  # bytes beyond what the process has when it begins; the files have thousands
NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
WORDS = b"nodes edges type size 1,2,2 0 -1 99999999 1e999 nan input output conv sum { } [ ] null true".split()


def originals(folder):
    """Write the good files; return their bytes by kind."""
    with znn.Model(NET, 4, num_workers=1, tune=False) as model:
        random = np.random.default_rng(0)
        shape = model.input_size
        model.step(random.standard_normal(shape, np.float32), np.zeros((2, 4, 4, 4), np.float32))
        model.save(folder / "good.safetensors")
        model.save(folder / "good.h5")
    network_of_many_words().save(folder / "good.znn")
    return {kind: (folder / f"good.{kind}").read_bytes() for kind in ("znn", "h5", "safetensors")}


def network_of_many_words():
    """Return a network with most of the types and keys that the text form has."""
    net = znn.Network.builder(padding="mirror")
    a = net.conv(net.input("image"), 4, norm="group(2)", transfer="tanh(1.7, 0.6)")
    b = net.conv(net.dropout(net.average_pool(a), 0.2), 8, stride=2, norm="batch", transfer="elu")
    up = net.transposed_conv(net.upsample(b, 2, "trilinear"), 4, 3, stride=2, crop=(0, 0, 0))
    x = net.concat([net.softmax(up), a], crop=True)
    x = net.maxout([net.conv(x, 2), net.conv(x, 2, 1)]) + net.crop(net.conv(net.input("other"), 2), (1, 0, 2))
    net.output(net.bias(net.max_filter(x, 2)))
    return net.build()


def mutate(content, seed):
    """Return a file with some damage, the same for the same seed."""
    random = np.random.default_rng(seed)
    data = bytearray(content)
    for _ in range(int(random.choice([1, 1, 1, 2, 4]))):
        DAMAGE[int(random.integers(len(DAMAGE)))](data, random)
    return bytes(data)


def _place(data, random):
    """Most of a file is zeros or weights; what says something is at its beginning or beside other text."""
    if random.random() < 0.5:
        return int(random.integers(max(1, min(len(data), 6000))))
    for _ in range(20):
        place = int(random.integers(max(1, len(data))))
        if place < len(data) and data[place]:
            break
    return place


def _flip(data, random):
    if data:
        data[_place(data, random) % len(data)] ^= 1 << int(random.integers(8))


def _byte(data, random):
    if data:
        data[_place(data, random) % len(data)] = int(random.choice([0, 1, 0x20, 0x30, 0x39, 0x7F, 0x80, 0xFF]))


def _number(data, random):
    place, size = _place(data, random), int(random.choice([1, 2, 4, 8]))
    value = NUMBERS[int(random.integers(len(NUMBERS)))] & ((1 << (8 * size)) - 1)
    data[place : place + size] = value.to_bytes(size, "little")


def _digits(data, random):
    """Make a number that is written out another, often a huge one."""
    places = [n for n in range(len(data)) if 0x30 <= data[n] <= 0x39][:4000]
    if places:
        place = places[int(random.integers(len(places)))]
        data[place : place + 1] = random.choice(
            [b"0", b"-1", b"7", b"99999999", b"123456789012345678901", b"1e30", b""]
        )


def _cut(data, random):
    place = _place(data, random)
    del data[place : place + int(random.choice([1, 2, 8, 64, 512, len(data)]))]


def _insert(data, random):
    place, word = _place(data, random), WORDS[int(random.integers(len(WORDS)))]
    data[place:place] = word if random.random() < 0.5 else random.bytes(int(random.integers(1, 40)))


def _copy(data, random):
    place, other, size = _place(data, random), _place(data, random), int(random.choice([8, 32, 200]))
    data[place : place + size] = data[other : other + size]


def _lines(data, random):
    """Exchange two lines, or leave one out."""
    lines = data.split(b"\n")
    a, b = (int(random.integers(len(lines))) for _ in range(2))
    lines[a], lines[b] = lines[b], lines[a] if random.random() < 0.5 else b""
    data[:] = b"\n".join(lines)


DAMAGE = (_flip, _byte, _number, _digits, _cut, _insert, _copy, _lines)


def read_znn_text(path):
    znn.Network.load(path)


def read_checkpoint_model(path):
    znn.Model.load(path, num_workers=1).close()


def read_groups(path):
    """Read what the child made of an HDF5 file, as `znn_hdf5.read_znn` and `Model.load` do."""
    arrays, metadata = read_checkpoint(path)
    interpret(znn_hdf5.unpack(arrays, json.loads(metadata["strings"])), path)


READERS = {"znn": read_znn_text, "safetensors": read_checkpoint_model, "groups": read_groups}


def outcome(read, path):
    """Return in a word what becomes of a file."""

    def too_long(*_):
        raise TimeoutError

    signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        read(path)
    except znn.ZnnError as error:
        return "error" if str(path) in str(error) else f"nameless: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "network"


def run_here(kind, paths):
    """Read files in this process; yield the outcome of each."""
    warnings.simplefilter("ignore")
    for path in paths:
        if kind == "h5":
            # As the child does; the limits are this process's. libhdf5 cannot be interrupted: the clock ends all.
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            message = hdf5_child.convert(
                str(path), f"{path}.out", "network", znn_hdf5.limits_of(path.stat().st_size)[0]
            )
            yield "made" if message is None else "error"
        else:
            yield outcome(READERS[kind], path)


def run_apart(kind, paths):
    """Read files in another process; a file that ends it gets the outcome ``died``, and the rest goes on."""
    outcomes = []
    while len(outcomes) < len(paths):
        left = paths[len(outcomes) :]
        with tempfile.TemporaryFile("w+") as listed, tempfile.TemporaryFile("w+") as told:
            listed.write("\n".join(map(str, left)))
            listed.seek(0)
            code = subprocess.run(
                [sys.executable, "-W", "ignore", __file__, kind],
                stdin=listed,
                stdout=told,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HDF5_PLUGIN_PRELOAD": "::"},
                timeout=60 + 20 * SECONDS * len(left),
                check=False,
            ).returncode
            told.seek(0)
            found = told.read().splitlines()
        outcomes += found
        if len(found) < len(left):
            outcomes.append(f"died: code {code}")
    return outcomes


def make(folder, kind, content, seeds):
    """Write damaged files; return their paths."""
    paths = []
    for seed in seeds:
        path = folder / f"{seed}.{kind}"
        path.write_bytes(mutate(content, seed))
        paths.append(path)
    return paths


def main(kind):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    now = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    paths = [Path(line) for line in sys.stdin.read().splitlines()]
    with contextlib.suppress(BrokenPipeError):
        for word in run_here(kind, paths):
            print(" ".join(word.split())[:200], flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
