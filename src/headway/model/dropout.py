"""Dropout whose masks are a function of the client, the step and the position, and of nothing else.

torch's own modules draw from one ambient generator, so what a client drops would depend on which clients train
beside it.  Here each element's draw is a hash of where it stands, and no state is passed from draw to draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from headway.core.errors import ConfigError
from headway.numerics.counters import mix, power, signed

Shape = tuple[int, ...]

FACTOR = 0xD1342543DE82EF95
SELU = 1.7580993408473766  # minus the limit of SELU at minus infinity, to the digits that torch takes


class Draws:
    """The source of the draws of one model's dropout modules: a client's key and the number of its step.

    Formula, for element (i_1, ..., i_n) of the c-th mask (from 0) that module l makes in step t, mod 2^64:

        stream  = mix(key + a t)
        counter = stream + l + a c + a^2 i_1 + ... + a^(n+1) i_n
        kept where mix(counter) >= 2^63 (2p - 1), as a signed number

    mix is `counters.mix`.  The sizes of the axes do not enter, so an example has the same draws in a batch that is
    padded.  The powers of a form a good lattice in up to 8 dimensions: no two elements of a step have one counter
    unless their (l, c, i) differ by a vector longer than 67,000 with two axes of i (features), 7,200 with three, 1,700
    with four.
    These are hashes for a simulation and for training; they keep no secret.

    The modules stay the user's own, by name, type and hooks; only what they do in training is replaced, until
    `release`.  `nn.Dropout`, `Dropout1d`, `Dropout2d`, `Dropout3d`, `AlphaDropout` and `FeatureAlphaDropout` are
    covered, wherever they are in the model.  Dropout inside a function (`functional.dropout`, attention, the
    layers of `nn.LSTM`) goes on drawing from torch's generator: `ambient.draws_ambient` finds it.

    stream: int64 `[]`; inside `torch.func.vmap`, batched like the key.

    Reference: Steele, Vigna, arXiv 2001.05304 (a).  Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    SC 2011, for counters instead of states.

    >>> model = nn.Sequential(nn.Dropout(0.5))
    >>> draws = Draws(model)
    >>> draws.at(key=7, step=0)
    >>> once, again = model(torch.ones(8)), model(torch.ones(8))
    >>> draws.at(key=7, step=0)
    >>> torch.equal(model(torch.ones(8)), once), torch.equal(once, again)
    (True, False)
    """

    def __init__(self, model: nn.Module) -> None:
        self.stream = torch.zeros((), dtype=torch.int64)
        self.layers = [
            part for part in model.modules() if "forward" not in vars(part) and _plain_forward(part) in MASK_SHAPES
        ]
        self.calls = [0] * len(self.layers)
        for number, part in enumerate(self.layers):
            part.forward = _Keyed(part, self, number)

    def at(self, key: int | Tensor, step: int | Tensor) -> None:
        """Before a forward pass in training: the client's key, and the number of the step, int64 `[]` each.

        Without it the modules go on counting their calls.
        """
        if self.layers:
            self.stream = mix(torch.as_tensor(key) + torch.as_tensor(step) * power(FACTOR, 1))
            self.calls = [0] * len(self.layers)

    @contextmanager
    def during(self, key: int | Tensor, step: int | Tensor, place: Tensor | None = None) -> Iterator[None]:
        """`at` for the forward pass of one lane, whose batched key must not outlive `torch.func.vmap`; place: of a
        single example `[1, ...]`, its place in the batch with whose draws it goes, int64 `[]`."""
        before = self.stream, self.calls
        self.at(key, step)
        if place is not None and self.layers:
            self.stream = self.stream + place * power(FACTOR, 2)
        try:
            yield
        finally:
            self.stream, self.calls = before

    def release(self) -> None:
        """Gives the modules back as they were: plain ones of torch, which draw from its generator."""
        for part in self.layers:
            del part.forward
        self.layers = []

    def kept(self, number: int, shape: Shape, p: float, device: torch.device) -> Tensor:
        """The next mask of a module, bool of this shape: each element is true with probability 1 - p.

        Raises:
            ConfigError: see `_call`.
        """
        counter = self.stream + signed(number + power(FACTOR, 1) * self._call(number))
        for axis, size in enumerate(shape):
            if size > 1:  # a single number of the processor is given to a GPU without waiting
                counter = counter.unsqueeze(-1) if counter.ndim else counter
                counter = counter + torch.arange(size, device=device) * power(FACTOR, axis + 2)
        bits = mix(counter).reshape(shape).to(device)
        return bits >= int(p * 2.0**64) - 2**63

    def _call(self, number: int) -> int:
        """The number of this call in the step.  In a backward pass, where checkpointing repeats a forward pass, it
        is the call repeated.

        Raises:
            ConfigError: if that is not known, since the module was called several times.
        """
        if torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1:
            self.calls[number] += 1
            return self.calls[number] - 1
        if self.calls[number] != 1:
            raise ConfigError(
                f"{type(self.layers[number]).__name__} is called several times in a step, and again in the backward "
                "pass, by checkpointing: which of its masks is meant is not known. Give each place in the model a "
                "dropout module of its own, or leave checkpointing out."
            )
        return 0

    def __deepcopy__(self, memo: dict[int, object]) -> Draws:
        """A copy of the model draws from the same."""
        return self


class _Keyed:
    """Stands in for the forward method of one dropout module, and reads p, inplace and the mode from it.

    The Alpha variants work on a copy whatever inplace is, as torch's do.

    Formula, m being the mask and, for the Alpha variants, A = 1.7580993408473766:

        x m / (1 - p);    x a m + A a (m - 1 + p),   a = ((A^2 p + 1) (1 - p))^(-1/2)
    """

    def __init__(self, part: nn.Module, draws: Draws, number: int) -> None:
        self.part, self.draws, self.number = part, draws, number

    def __call__(self, x: Tensor) -> Tensor:
        part = self.part
        alpha = isinstance(part, nn.AlphaDropout | nn.FeatureAlphaDropout)
        p, inplace = float(part.p), bool(part.inplace) and not alpha  # type: ignore[arg-type]
        if not part.training or p == 0 or x.numel() == 0:
            return x
        if p == 1:
            return x.mul_(0) if inplace else x * 0
        shape = MASK_SHAPES[_plain_forward(part)](x)
        mask = self.draws.kept(self.number, shape, p, x.device).to(x.dtype)
        if alpha:
            a = 1 / math.sqrt((SELU * SELU * p + 1) * (1 - p))
            shift = (mask - 1).mul_(SELU * a).add_(SELU * a * p)
            return x * mask.mul_(a) + shift
        mask.div_(1 - p)
        return x.mul_(mask) if inplace else x * mask


def _elements(x: Tensor) -> Shape:
    """A draw for each element."""
    return tuple(x.shape)


def _channels(x: Tensor, axes: int = 2) -> Shape:
    """A draw for each channel of `[N, C, ...]`; of `[C, ...]`, where channels are the first axis."""
    if x.ndim < axes:
        raise RuntimeError(f"dropout of features needs an input of at least {axes} dimensions, found {list(x.shape)}")
    return (*x.shape[:axes], *(1,) * (x.ndim - axes))


def _channels_1d(x: Tensor) -> Shape:
    """Of `[N, C, L]` or `[C, L]`."""
    functional.dropout1d(x, training=False)  # refuses other shapes
    return _channels(x, 2 if x.ndim == 3 else 1)


def _channels_2d(x: Tensor) -> Shape:
    """Of `[N, C, H, W]` or `[N, C, L]`."""
    functional.dropout2d(x, training=False)  # warns of other shapes
    return _channels(x)


def _channels_3d(x: Tensor) -> Shape:
    """Of `[N, C, D, H, W]` or `[C, D, H, W]`."""
    functional.dropout3d(x, training=False)  # warns of other shapes
    return _channels(x, 2 if x.ndim == 5 else 1)


# By forward method, so that a user's subclass with a forward of its own is left alone.
MASK_SHAPES: dict[object, Callable[[Tensor], Shape]] = {
    nn.Dropout.forward: _elements,
    nn.AlphaDropout.forward: _elements,
    nn.Dropout1d.forward: _channels_1d,
    nn.Dropout2d.forward: _channels_2d,
    nn.Dropout3d.forward: _channels_3d,
    nn.FeatureAlphaDropout.forward: _channels,
}


def _plain_forward(part: nn.Module) -> object:
    return getattr(type(part), "forward", None)
