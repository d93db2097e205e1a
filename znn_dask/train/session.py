"""Starting or continuing a run: from a configuration and a folder to a `Loop` that is ready to go."""

from pathlib import Path

from znn_dask.errors import CheckpointError
from znn_dask.geometry import Triple
from znn_dask.io.atomic import replacing
from znn_dask.model import Model
from znn_dask.net import Network
from znn_dask.train.balance import make_balance
from znn_dask.train.checkpoints import tidy
from znn_dask.train.config import Config
from znn_dask.train.config_file import to_yaml
from znn_dask.train.curve import keep_until
from znn_dask.train.heldout import Segments
from znn_dask.train.loop import Loop
from znn_dask.train.mirror import margins_of
from znn_dask.train.resolve import check_net, make_network, make_optimizer, output_size
from znn_dask.train.run import CONFIG, CURVE, MODEL, Position, check_same_run, read_stored
from znn_dask.train.samples import Sample, Samples
from znn_dask.train.volumes import Opened, Volume, check_channels, check_size, load_volumes


def open_run(
    config: Config, folder: Path, restart: bool = False, model: Model | None = None
) -> tuple[Loop, list[Volume]]:
    """Make everything ready, from the checkpoint in the folder if there is one.

    Everything is checked before the first file is written.

    Parameters
    ----------
    config : Config
    folder : Path
        Holds the model file and the learning curve; made if it is missing.
    restart : bool
        Start over; what the folder holds of an earlier run is replaced.
    model : Model, optional
        To be trained instead of a new one; its network, output size and loss count. If there is a checkpoint, it
        becomes that.

    Returns
    -------
    loop : Loop
        Its model is to be closed by the caller.
    test : list of Volume
        The held-out volumes.

    Raises
    ------
    CheckpointError
        If the folder holds another run.
    ConfigError, DataError, ShapeError, NetworkError, ParameterError
        If something does not fit.
    """
    net = make_network(config.network) if model is None else model.net
    check_net(config, net)
    size = output_size(config, net)
    resumed, position = find_position(config, folder, restart, model)
    train, test = open_volumes(config, net)
    samples = training_samples(config, net, train, size)
    train_test = fixed_samples(config, train, net, size, "test on training data")
    held_out = fixed_samples(config, test, net, size, "test") if test else []
    if model is not None:
        restore(model, folder, position, resumed)
    else:
        model = _load(folder / MODEL, net, position, config) if resumed else _make(config, net, size)
    prepare(config, folder, position, resumed)
    how = segments_of(config, net)
    counted = training_samples(config, net, train, size, "balance")
    balance = make_balance(config.training.rebalance, model.loss, net.outputs, counted, position.counts)
    position.counts = balance.recorded()
    return Loop(config, folder, model, samples, position, held_out, train_test, test, how, balance=balance), test


def open_volumes(config: Config, net: Network) -> tuple[list[Volume], list[Volume]]:
    """Open what is learnt from and what is held out, and check it against the network.

    Raises
    ------
    ConfigError, DataError, ShapeError
        If something does not fit.
    """
    data, opened = config.data, Opened(config.data)
    train = load_volumes(data, data.train, "train", net.inputs, net.outputs, opened)
    test = load_volumes(data, data.test, "test", net.inputs, net.outputs, opened)
    around = margins_of(net, output_size(config, net))
    for item in (*train, *test):
        for needed in around.values():
            check_size(item, needed.view)
        check_channels(item, net.inputs)
    return train, test


def training_samples(
    config: Config, net: Network, volumes: list[Volume], size: Triple, purpose: str = "sample"
) -> Samples:
    """Return the samples that a run learns from, or others like them, but for the images, for another purpose."""
    data = config.data
    return Samples(
        volumes,
        margins_of(net, size),
        size,
        seed=config.training.seed,
        batch=config.training.batch,
        flip=data.flip,
        transpose=data.transpose,
        mirror=data.border == "mirror",
        augment=data.augment if purpose == "sample" else (),
        purpose=purpose,
    )


def find_position(config: Config, folder: Path, restart: bool, model: Model | None) -> tuple[bool, Position]:
    """Return whether a folder holds a checkpoint to resume from, and where the run is.

    Raises
    ------
    CheckpointError
        If the folder holds another run.
    """
    path = folder / MODEL
    if restart or not path.exists():
        return False, Position(before=0 if model is None else model.step_count)
    stored = read_stored(path)
    check_same_run(path, stored.config, config)
    return True, stored.position


def restore(model: Model, folder: Path, position: Position, resumed: bool) -> None:
    """Make a model that was given what the checkpoint says, if there is one."""
    if resumed:
        model.restore(folder / MODEL)
        _check_step(model, folder / MODEL, position)


def prepare(config: Config, folder: Path, position: Position, resumed: bool) -> None:
    """Make the folder ready: what is of another run or after the checkpoint goes."""
    folder.mkdir(parents=True, exist_ok=True)
    if resumed:
        tidy(folder, position.step)
        keep_until(folder / CURVE, position.step)
    else:
        # The old model goes first: without it nothing else of the old run can be taken for the new one's.
        (folder / MODEL).unlink(missing_ok=True)
        (folder / CURVE).unlink(missing_ok=True)
        tidy(folder, None)
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(to_yaml(config), encoding="utf-8")


def segments_of(config: Config, net: Network) -> Segments:
    """Return which voxels of the target form segments, whether sections are taken one by one, and by which method."""
    how, target, ids = config.log.segments, config.data.target, False
    if how == "auto" and target in ("binary", "boundary"):
        # Cells lie between boundaries; objects are what a binary target marks.
        how = "background" if (target == "boundary") != config.data.invert else "foreground"
        ids = target == "boundary"
    elif how == "auto":
        # Affinities, also those that MALIS learns from ids, are 1 inside cells; a class has no segments of its own.
        ids = target in ("affinity", "ids")
        how = "foreground" if ids else "none"
    return Segments(how, config.data.in_plane or net.field_of_view[0] == 1, ids, config.log.segmentation)


def _make(config: Config, net: Network, size: Triple) -> Model:
    training = config.training
    return Model(
        net,
        output_size=size,
        loss=training.loss,
        optimizer=make_optimizer(training),
        seed=training.seed,
        num_workers=config.compute.workers,
        convolution=config.compute.convolution,
        batch=training.batch,
    )


def _load(path: Path, net: Network, position: Position, config: Config) -> Model:
    model = Model.load(path, num_workers=config.compute.workers)
    if model.net != net:
        model.close()
        raise CheckpointError(
            f"{path} holds another network: it has {model.net.n_parameters:,} parameters and field of view "
            f"{model.net.field_of_view}, the configuration's has {net.n_parameters:,} and "
            f"{net.field_of_view}. "
            "Give --restart to start over, or --out for another folder"
        )
    try:
        _check_step(model, path, position)
    except CheckpointError:
        model.close()
        raise
    return model


def _check_step(model: Model, path: Path, position: Position) -> None:
    if model.step_count != position.before + position.step:
        raise CheckpointError(
            f"{path} is of update {model.step_count}, but its run says {position.before + position.step}; it was "
            "changed after training. Give --restart to start over, or --out for another folder"
        )


def fixed_samples(config: Config, volumes: list[Volume], net: Network, size: Triple, purpose: str) -> list[Sample]:
    """Return the patches, always the same and never flipped, on which errors are measured.

    They are smaller than those of training where a region is.
    """
    lengths = [[high - low for low, high in item.region] for item in volumes]
    z, y, x = net.output_within([min(s, *(length[axis] for length in lengths)) for axis, s in enumerate(size)])
    samples = Samples(
        volumes,
        margins_of(net, (z, y, x)),
        (z, y, x),
        seed=config.training.seed,
        batch=config.training.batch,
        mirror=config.data.border == "mirror",
        purpose=purpose,
    )
    count = -(-config.log.test_patches // config.training.batch)
    return [samples.sample(number) for number in range(count)]
