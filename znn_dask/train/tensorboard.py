"""The learning curve for TensorBoard, by tensorboardX, which needs neither TensorFlow nor PyTorch."""

from pathlib import Path
from typing import Any

import numpy as np

from znn_dask.errors import MissingExtraError
from znn_dask.train.callbacks import Callback
from znn_dask.train.checkpoints import saving
from znn_dask.train.curve import Row
from znn_dask.train.loop import Loop
from znn_dask.train.run import BOARD

# Names with a slash share a section of TensorBoard's page; spaces are not allowed.
TAGS = {
    "loss": "loss/training",
    "test_loss": "loss/held-out_patches",
    "train_error": "error/training_patches",
    "test_error": "error/held-out_patches",
    "region_error": "error/held-out_regions",
    "region_f1": "regions/F1",
    "rand_error": "regions/adapted_Rand_error",
    "voi_split": "regions/variation_of_information_split",
    "voi_merge": "regions/variation_of_information_merge",
    "learning_rate": "run/learning_rate",
}


class TensorBoard(Callback):
    """Writes every row of the learning curve, and predictions of the first held-out region, into ``tensorboard/``.

    On a resume TensorBoard is told to forget what came after the checkpoint.

    Raises
    ------
    MissingExtraError
        If tensorboardX is not installed.
    """

    def __init__(self) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "log.tensorboard needs the extra: pip install 'znn-dask[tensorboard]'; or leave it out"
            ) from error
        self._make = SummaryWriter
        self._writer: Any = None

    def on_start(self, run: Loop) -> None:
        """Open a file; those of a run that was started over go."""
        folder = run.folder / BOARD
        with saving(folder, run.kept()):
            if run.step == 0:
                for path in folder.glob("events.out.tfevents.*"):
                    path.unlink()
            self._writer = self._make(str(folder), purge_step=run.step + 1 if run.step else None)

    def on_log(self, run: Loop, row: Row) -> None:
        """Write what is known of a row."""
        with saving(run.folder / BOARD, run.kept()):
            for name, tag in TAGS.items():
                value = getattr(row, name)
                if value is not None:
                    self._writer.add_scalar(tag, value, row.step)
            if row.region_error is not None and run.validation is not None:
                self._writer.add_image("prediction", _grey(run.validation.predictions[0]), row.step)

    def on_checkpoint(self, run: Loop, path: Path) -> None:
        """Bring to disk what belongs to the checkpoint."""
        with saving(run.folder / BOARD, run.kept()):
            self._writer.flush()

    def on_end(self, run: Loop, reason: str) -> None:
        """Close the file."""
        if self._writer is not None:
            with saving(run.folder / BOARD, run.kept()):
                self._writer.close()


def _grey(volume: np.ndarray) -> np.ndarray:
    """Return the middle section as a picture (1, y, x) of bytes."""
    section = np.clip(volume[volume.shape[0] // 2], 0, 1)
    picture: np.ndarray = (255 * section).astype(np.uint8)[np.newaxis]
    return picture
