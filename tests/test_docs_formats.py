"""What the page about files says can be done with them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import znn_dask as znn
from znn_dask.train.znn_options import OPTIONS, Left

PAGE = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()
STRANGER = """
dilation, x = (1, 1, 1), numpy.load("image.npy")
for block in about["network"].split("\\n\\n"):
    lines = dict(line.split(" ", 1) for line in block.splitlines() if " " in line)
    if lines.get("type") == "conv":
        w = arrays[f"parameters/{lines['edges']}/kernel"]
        n = [have - (k - 1) for have, k in zip(x.shape[1:], w.shape[2:])]
        parts = [(k, x[:, k[0]:k[0] + n[0], k[1]:k[1] + n[1], k[2]:k[2] + n[2]]) for k in numpy.ndindex(*w.shape[2:])]
        x = sum(numpy.einsum("oi,izyx->ozyx", w[:, :, k[0], k[1], k[2]], part) for k, part in parts)
    elif lines.get("type") == "transfer":
        x = numpy.tanh(x + arrays[f"parameters/{lines.get('edge', lines['nodes'])}/bias"][:, None, None, None])
numpy.save("result.npy", x)
"""


@pytest.mark.timeout(60)
def test_a_stranger_reads_a_model_without_this_program(tmp_path):
    """The page's example, then the network by numpy alone, in a process that cannot import znn_dask."""
    net = znn.Network.parse("CTCT", width=2, kernel=2, transfer="tanh")
    image = np.random.default_rng(0).standard_normal((1, 4, 5, 6)).astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    with znn.Model(net, 2, num_workers=1, tune=False) as model:
        model.save(tmp_path / "model.safetensors")
        expected = model.predict(image, border=None)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    script = f"import sys\nsys.modules['znn_dask'] = None\nimport numpy\n{code}\n{STRANGER}"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "parameters/conv1/kernel (2, 1, 2, 2, 2)" in done.stdout
    np.testing.assert_allclose(np.load(tmp_path / "result.npy"), expected, atol=1e-5)
    assert os.listdir(tmp_path)


def test_every_option_that_is_translated_is_on_the_page():
    shown = PAGE.replace("`_test`, `_save`", "`Num_iter_per_test`, `Num_iter_per_save`")
    old = {"out_dtype"}  # the name of before
    for option, rule in OPTIONS.items():
        assert isinstance(rule, Left) or option in old or f"`{option}`" in shown, option
