"""Small models by name, and anyone's by `module:function`.

Every factory takes the shape of one example and the number of outputs first.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

from torch import nn

from headway.core.errors import ConfigError, nearest
from headway.core.own_code import error_text, imported


def logistic(shape: Sequence[int], outputs: int) -> nn.Module:
    """Multinomial logistic regression: one linear layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), outputs))


def mlp(shape: Sequence[int], outputs: int, hidden: Sequence[int] = (200,), projection: int | None = None) -> nn.Module:
    """A multilayer perceptron with ReLU between its layers; `projection` as in `lenet`."""
    sizes = [prod(shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers, *_head(sizes[-1], outputs, projection))


def lenet(shape: Sequence[int], outputs: int, padding: int | None = None, projection: int | None = None) -> nn.Module:
    """LeNet-5 with ReLU and max-pooling: conv 6, conv 16, 120, 84.  LeCun et al., Proc. IEEE 86 (1998).

    padding: of the first convolution; 2 for images below 32 pixels by default, as in the paper.  With 0 it is
    the CNN of NIID-Bench, arXiv 2102.02079.
    projection: the width of a projection head before the output layer, for MOON; 256 in arXiv 2103.16257.
    """
    padding = (2 if shape[1:] and shape[1] < 32 else 0) if padding is None else padding
    channels, height, width = _image(shape, "lenet", smallest=16 - 2 * padding)
    features = 16 * _after(height, padding) * _after(width, padding)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=padding),
        nn.MaxPool2d(2),  # before ReLU: the same bits, as the two commute, over a quarter of the numbers
        nn.ReLU(),
        nn.Conv2d(6, 16, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(features, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        *_head(84, outputs, projection),
    )


def cnn(shape: Sequence[int], outputs: int, projection: int | None = None) -> nn.Module:
    """The CNN of the FedAvg paper: conv 5x5x32, conv 5x5x64, 512.  McMahan et al., arXiv 1602.05629.

    projection: as in `lenet`.
    """
    channels, height, width = _image(shape, "cnn", smallest=4)
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5, padding=2),
        nn.MaxPool2d(2),  # before ReLU, as in `lenet`
        nn.ReLU(),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 512),
        nn.ReLU(),
        *_head(512, outputs, projection),
    )


MODELS: dict[str, Callable[..., nn.Module]] = {"cnn": cnn, "lenet": lenet, "logistic": logistic, "mlp": mlp}


def factory(
    name: str, shape: Sequence[int], outputs: int, options: Mapping[str, Any] | None = None
) -> Callable[[], nn.Module]:
    """A factory of a packaged model, or of `module:function`.

    A function of one's own is called with the arguments that it names among `shape`, `outputs` and the options.

    Raises:
        ConfigError: for an unknown name, module, function or option.
    """
    options = dict(options or {})
    make = imported(name, "model") if ":" in name else MODELS.get(name)
    if make is None:
        raise ConfigError(
            f"there is no model named {name!r}{nearest(name, MODELS)}; your own is named as module:function."
        )
    parameters = _parameters(make, name)
    given = {k: v for k, v in {"shape": tuple(shape), "outputs": outputs}.items() if k in parameters}
    known = parameters.keys() - {"shape", "outputs"}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option in options:
        if not takes_any and option not in known:
            raise ConfigError(f"the model {name!r} has no option {option!r}{nearest(option, known)}.")
    return functools.update_wrapper(lambda: _made(make, given, options, name), make)


def _made(make: Callable[..., nn.Module], given: Mapping[str, Any], options: Mapping[str, Any], name: str) -> nn.Module:
    try:
        made = make(**given, **options)
    except ConfigError:
        raise  # it names what is wrong by itself
    except Exception as error:  # whatever a function of one's own may raise
        text = ", ".join(f"{option} = {value!r}" for option, value in options.items()) or "no options"
        raise ConfigError(f"the model {name!r} cannot be made with {text}: {error_text(error)}.") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{name} must return a torch.nn.Module, found {type(made).__name__}.")
    return made


def _parameters(make: Callable[..., nn.Module], name: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(make).parameters
    except ValueError as error:
        raise ConfigError(f"the model {name!r} is no function whose arguments are known: {error}.") from error


def _head(features: int, outputs: int, projection: int | None) -> list[nn.Module]:
    """The output layer, after a projection head of two layers where there is one."""
    if projection is None:
        return [nn.Linear(features, outputs)]
    if projection < 1:
        raise ConfigError(f"projection must be at least 1, found {projection}.")
    head = [nn.Linear(features, features), nn.ReLU(), nn.Linear(features, projection)]
    return [*head, nn.Linear(projection, outputs)]


def _image(shape: Sequence[int], model: str, smallest: int) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape[1:]) < smallest:
        image = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))
        raise ConfigError(
            f"the model {model!r} needs images [channels, height, width] of at least {smallest} pixels a side, found "
            f"examples of shape {list(shape)}; use 'mlp' or 'logistic' for rows of numbers"
            + ('; data.inputs = "pictures" adds or moves the axis of channels of pictures.' if image else ".")
        )
    return shape[0], shape[1], shape[2]


def _after(side: int, padding: int) -> int:
    """The side of LeNet's last feature map."""
    return ((side + 2 * padding - 4) // 2 - 4) // 2
