"""Dask's dashboard in a real browser: opening it, reading what its plots show, taking a picture.

By itself it takes the picture of the documentation, of steps that run meanwhile::

    python tests/dashboard_page.py docs/images/dashboard.png
"""

import argparse
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
import distributed
import numpy as np
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import znn_dask as znn

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Nothing beyond this machine is asked for. As root, as in containers, Chromium does without its sandbox.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# Bokeh draws on a canvas, where nothing can be read. Its documents hold what it draws: here every plot with a name
# and a colour for each of its marks, by the title of the plot.
READ_PLOTS = """
const found = {};
if (typeof Bokeh === "undefined") return found;
for (const page of Bokeh.documents)
  for (const root of page.roots())
    for (const plot of root.references()) {
      if (plot.renderers === undefined || !plot.title) continue;
      for (const renderer of plot.renderers) {
        const data = renderer.data_source?.data;
        if (data?.name === undefined || data?.color === undefined) continue;
        const marks = found[plot.title.text] ??= {};
        for (let i = 0; i < data.name.length; i++) marks[data.name[i]] = data.color[i];
      }
    }
return found;
"""


def missing() -> str | None:
    """Return what is not installed of a browser and its driver."""
    if not any(map(shutil.which, BROWSERS)):
        return "Chromium is not installed"
    return None if shutil.which("chromedriver") else "chromedriver is not installed"


@contextmanager
def browser(profile: Path, size: tuple[int, int] = (1500, 900)) -> Iterator[webdriver.Chrome]:
    """Run Chromium without a window, with an empty profile, for pages of a size in pixels (x, y)."""
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(60)
        yield driver
    finally:
        driver.quit()


def plots(driver: webdriver.Chrome) -> dict[str, dict[str, str]]:
    """Return the colour of every name in every plot of the page, by the title of the plot."""
    return driver.execute_script(READ_PLOTS)


@contextmanager
def dashboard(n_threads: int, folder: Path) -> Iterator[tuple[distributed.Client, str]]:
    """Start a client in this process, with a dashboard on a free port of this machine; yield it and the address."""
    config = {"temporary-directory": str(folder), "distributed.scheduler.worker-saturation": "inf"}
    options = {"processes": False, "n_workers": 1, "threads_per_worker": n_threads}
    with dask.config.set(config), distributed.Client(**options, dashboard_address="127.0.0.1:0") as client:
        port = client.scheduler_info()["services"]["dashboard"]
        yield client, f"http://127.0.0.1:{port}"


@contextmanager
def running(model: znn.Model, client: distributed.Client) -> Iterator[None]:
    """Let a thread run steps of a model, one after the other, until the block ends."""
    rng = np.random.default_rng(0)
    sizes = (model.net.inputs["input"], *model.input_size), (model.net.outputs["output"], *model.output_size)
    x, target = (rng.standard_normal(size, np.float32) for size in sizes)
    stop, failed = threading.Event(), []

    def work() -> None:
        try:
            while not stop.is_set():
                model.graph("step", x, target).run(client.get)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="steps")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    if failed:
        raise failed[0]
    assert not thread.is_alive(), "a step did not end"


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=4, help="of steps before it is taken")
    given = parser.parse_args()
    net = znn.Network.parse("CTMCTMCTCT", width=given.width, kernel=5, window=2)
    with (
        tempfile.TemporaryDirectory() as folder,
        znn.Model(net, (12, 12, 12), convolution="fft", num_workers=2, tune=False) as model,
        dashboard(2, Path(folder)) as (client, address),
        browser(Path(folder) / "browser") as driver,
    ):
        client.get_task_stream(start=0, stop=0)  # from now on tasks are noted; a page that is drawn disturbs them
        with running(model, client):
            time.sleep(given.seconds)
            driver.get(f"{address}/status")
            time.sleep(2)
            driver.save_screenshot(str(given.picture))


if __name__ == "__main__":
    main()
