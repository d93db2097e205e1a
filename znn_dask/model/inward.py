"""Models from what others made: modules of PyTorch."""

from typing import Any

from znn_dask import exchange
from znn_dask.model.model import Model


def from_torch(module: Any, example_input: Any, *, output_size: Any = None, **options: Any) -> Model:
    """Return a model that computes what a module of PyTorch does, with its weights.

    The module is recorded by torch.export with the example input, in evaluation mode. Edges have the names of its
    parts: "encoder.conv1/kernel" are the weights of ``module.encoder.conv1``. A bias becomes that of a transfer.

    Parameters
    ----------
    module : torch.nn.Module
        Of convolutions (also transposed), batch, instance and group normalisation, pooling, upsampling, dropout, the
        functions that `Transfer` has, softmax over the maps, sums, concatenations and crops.
    example_input : tensor or array of shape (batch, channel, [z,] y, x), or tuple of these
        Zeros will do. Images of two axes give a network of ``ndim=2``.
    output_size : optional
        As for `Model`; that which the example gives, unless given.
    **options
        As for `Model`: loss, optimizer, num_workers...

    Raises
    ------
    NetworkError
        If the module does something that has no place here; the message names it, says where it stands, and lists what
        is known.
    MissingExtraError
        If PyTorch is not installed: the extra "torch".
    """
    return model_of(exchange.read_module(module, example_input), output_size, **options)


def model_of(found: exchange.Found, output_size: Any = None, **options: Any) -> Model:
    """Return a model of a network that was read."""
    model = Model(found.net, found.output_size if output_size is None else output_size, **options)
    model.load_parameters(found.parameters)
    return model
