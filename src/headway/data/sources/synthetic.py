"""Examples drawn from a model per client: the synthetic data of FedProx, in which skew is two numbers."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headway.core.errors import ConfigError
from headway.data.dataset.owners import client_ids
from headway.data.partition.allocation import generator
from headway.data.sources.example_pool import ExamplePool
from headway.numerics.keys import Key

DECAY = 1.2  # of the inputs' variances, j^-1.2

Model = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions:
    """The numbers of synthetic(alpha, beta), as in `synthetic_pool`.

    Raises:
        ConfigError: a number out of range, or alpha or beta together with `iid`.
    """

    clients: int = 30
    alpha: float | None = None
    beta: float | None = None
    iid: bool = False
    dimension: int = 60
    classes: int = 10
    size_mean: float = 4.0
    size_spread: float = 2.0
    smallest: int = 50
    largest: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.iid, bool):
            raise ConfigError(f"the option 'iid' of 'synthetic' is {self.iid!r}, but true or false is needed.")
        if self.iid and (self.alpha or self.beta):
            raise ConfigError("iid synthetic data share one model and one distribution: leave alpha and beta out.")
        alpha, beta = self.deviations
        _need("alpha", alpha, 0)
        _need("beta", beta, 0)
        _need("size_mean", self.size_mean, -inf)
        _need("size_spread", self.size_spread, 0)
        _need("clients", self.clients, 1, whole=True)
        _need("dimension", self.dimension, 1, whole=True)
        _need("classes", self.classes, 2, whole=True)
        _need("smallest", self.smallest, 1, whole=True)
        if self.largest is not None:
            _need("largest", self.largest, self.smallest, whole=True)

    @property
    def deviations(self) -> tuple[float, float]:
        """alpha and beta: 1 unless given, 0 where the clients are alike."""
        if self.iid:
            return 0.0, 0.0
        return 1.0 if self.alpha is None else self.alpha, 1.0 if self.beta is None else self.beta


def synthetic_pool(*, key: Key, options: SyntheticOptions) -> ExamplePool:
    """synthetic(alpha, beta): every client has a model and a distribution of inputs of its own.

    For client k: u_k ~ N(0, alpha); W_k `[F, K]` and b_k `[K]` with elements ~ N(u_k, 1); B_k ~ N(0, beta);
    v_k `[F]` ~ N(B_k, 1); x ~ N(v_k, diag(j^-1.2)), j = 1..F; y = argmax softmax(x W_k + b_k).  With `iid` all
    clients share W and b ~ N(0, 1), and v = 0.  Client k holds floor(exp(z)) + `smallest` examples,
    z ~ N(size_mean, size_spread), cut to `largest` where that is given.
    Since u_k adds the same u_k (1 + sum_j x_j) to the score of every class, alpha changes no label: models differ
    by their elements' own draws, and what sets the skew is beta.
    The second argument of N is a standard deviation here, except for x's diagonal covariance.  alpha and beta
    are 1 unless given.  Inputs float32 `[N, F]`, targets int64 `[N]`.

    Reference: Li et al., arXiv 1812.06127, section 5.1, after Shamir et al., arXiv 1312.7853; alpha and beta as
    standard deviations, and the sizes, are those of the authors' code.
    Differs from the paper: `largest`.
    """
    sizes = _sizes(options, key)
    alpha, beta = options.deviations
    shape = options.dimension, options.classes
    shared = _model(generator(key.derive("shared")), 0.0, *shape) if options.iid else None
    parts = [_examples(key.derive("client", k), n, alpha, beta, shape, shared) for k, n in enumerate(sizes)]
    owners = [owner for owner, size in zip(client_ids(options.clients), sizes, strict=True) for _ in range(size)]
    name = "synthetic-iid" if options.iid else f"synthetic({alpha:g},{beta:g})"
    return ExamplePool(
        name,
        torch.cat([x for x, _ in parts]),
        torch.cat([y for _, y in parts]),
        options.classes,
        tuple(owners),
        description=f"{name}: examples drawn from a model per client (Li et al., arXiv 1812.06127)",
    )


def _sizes(options: SyntheticOptions, key: Key) -> list[int]:
    """The number of examples of each client."""
    drawn = np.exp(generator(key.derive("sizes")).normal(options.size_mean, options.size_spread, options.clients))
    most = inf if options.largest is None else options.largest
    sizes: list[int] = np.minimum(np.floor(drawn) + options.smallest, most).astype(np.int64).tolist()
    return sizes


def _model(rng: np.random.Generator, tilt: float, dimension: int, classes: int) -> Model:
    """W `[F, K]` and b `[K]`, their elements drawn about `tilt`."""
    return rng.normal(tilt, 1.0, (dimension, classes)), rng.normal(tilt, 1.0, classes)


def _examples(
    key: Key, size: int, alpha: float, beta: float, shape: tuple[int, int], shared: Model | None
) -> tuple[Tensor, Tensor]:
    """One client's inputs and labels, by its own model and about its own mean, or by the shared ones."""
    rng = generator(key)
    tilt, centre = rng.normal(0.0, alpha), rng.normal(0.0, beta)
    weights, offsets = _model(rng, tilt, *shape)
    means = rng.normal(centre, 1.0, shape[0])
    if shared is not None:
        (weights, offsets), means = shared, np.zeros(shape[0])
    x = means + rng.standard_normal((size, shape[0])) * np.arange(1, shape[0] + 1) ** (-DECAY / 2)
    return torch.from_numpy(x).float(), torch.from_numpy((x @ weights + offsets).argmax(axis=1))


def _need(name: str, value: object, least: float, whole: bool = False) -> None:
    """Refuses an option that is no number, or too small."""
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value < inf:
        wanted = "a whole number" if whole else "a number"
        at_least = "" if least == -inf else f" of at least {least:g}"
        raise ConfigError(f"the option {name!r} of 'synthetic' is {value!r}, but {wanted}{at_least} is needed.")
