"""Known algorithms by name: each is a chain, and is printed as one.

>>> from headway import recipes
>>> recipes.fedprox(mu=0.1).chain
chain(FedProx(mu=0.1), Mean(over='examples'), ServerSGD(lr=1.0, momentum=0.0))
>>> recipes.recipe("fedavg+ecgr").chain
chain(ECGR(select=0.5, beta=0.2, rule='greedy'), Mean(over='examples'), ServerSGD(lr=1.0, momentum=0.0))
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, TypedDict, Unpack

from headway.core.algorithm import Algorithm
from headway.core.chain import Chain, chain
from headway.core.errors import ConfigError, nearest
from headway.core.plugins import NamedRegistry, own_name
from headway.core.registry import convert
from headway.core.sampler import Sampler
from headway.core.stage import Stage
from headway.protocol.quorum import Quorum
from headway.samplers import All, Uniform
from headway.stages import (
    AFL,
    ECGR,
    AverageModel,
    FedDyn,
    FedNova,
    FedProx,
    Mean,
    QFedAvg,
    Rebase,
    Scaffold,
    ServerAdagrad,
    ServerAdam,
    ServerSGD,
    ServerYogi,
    Staleness,
    WeighByQuality,
)
from headway.training.local_sgd import LocalSGD
from headway.training.loss_terms import Moon
from headway.training.trainer import Trainer


class Common(TypedDict, total=False):
    """The options that the recipes have in common: the trainer, the sampler, and ECGR on top."""

    trainer: Trainer | None
    sampler: Sampler | None
    ecgr: ECGR | bool


class AdaptiveServer(Common, total=False):
    """The options of FedAdam and FedYogi: the fields of `ServerAdam`, which has the defaults, and the common ones."""

    lr: float
    beta1: float
    beta2: float
    tau: float
    bias_correction: bool
    start: float | None
    epsilon: Literal["outside", "keras", "inside"]


def _as_recipe(name: str | None, make: Any) -> tuple[str, Callable[..., Algorithm]]:
    if not callable(make):
        raise ConfigError(
            f"a recipe is a function that returns an Algorithm, found a value of type {type(make).__name__}."
        )
    name, make = own_name(name, make)
    if "+" in name:
        raise ConfigError(f"a recipe cannot be named {name!r}: the part after + is for ECGR on top of a recipe.")
    return name, make


RECIPES: NamedRegistry[Callable[..., Algorithm]] = NamedRegistry("recipe", "headway.recipes", _as_recipe)
register = RECIPES.register


def _algorithm(
    parts: list[Stage],
    trainer: Trainer | None = None,
    sampler: Sampler | None = None,
    ecgr: ECGR | bool = False,
    quorum: Quorum | None = None,
) -> Algorithm:
    if ecgr:
        at = next(i for i, part in enumerate(parts) if part.place > ECGR.place)
        parts = [*parts[:at], ECGR() if ecgr is True else ecgr, *parts[at:]]
    return Algorithm(chain(*parts), trainer or LocalSGD(), sampler or All(), quorum or Quorum())


def _with_adaptive_server(server: type[ServerAdam] | type[ServerYogi], options: Mapping[str, Any]) -> Algorithm:
    numbers = {name: value for name, value in options.items() if name not in Common.__annotations__}
    common = {name: value for name, value in options.items() if name in Common.__annotations__}
    return _algorithm([Mean(), server(**numbers)], **common)


@register
def fedavg(
    *,
    server_lr: float = 1.0,
    **common: Unpack[Common],
) -> Algorithm:
    """FedAvg: local SGD, then the mean by examples.  McMahan et al., arXiv 1602.05629, Algorithm 1."""
    return _algorithm([Mean(), ServerSGD(lr=server_lr)], **common)


@register
def fedsgd(*, lr: float = 0.1, sampler: Sampler | None = None) -> Algorithm:
    """FedSGD: one full-batch gradient per client and round.  McMahan et al., arXiv 1602.05629, section 2."""
    return _algorithm([Mean(), ServerSGD(lr=lr)], LocalSGD(lr=1.0, batch_size=None, steps=1), sampler)


@register
def fedprox(
    *,
    mu: float = 0.01,
    **common: Unpack[Common],
) -> Algorithm:
    """FedProx: FedAvg with a proximal term in each local step.  Li et al., arXiv 1812.06127."""
    return _algorithm([FedProx(mu=mu), Mean(), ServerSGD()], **common)


@register
def scaffold(
    *,
    option: Literal["I", "II"] = "II",
    correct: Literal["gradient", "step"] = "gradient",
    server_lr: float = 1.0,
    **common: Unpack[Common],
) -> Algorithm:
    """SCAFFOLD: control variates, and the plain mean over clients.  Karimireddy et al., arXiv 1910.06378."""
    parts = [Scaffold(option=option, correct=correct), Mean(over="clients"), ServerSGD(lr=server_lr)]
    return _algorithm(parts, **common)


@register
def fedadam(**options: Unpack[AdaptiveServer]) -> Algorithm:
    """FedAdam: Adam at the server.  Reddi et al., arXiv 2003.00295, Algorithm 2."""
    return _with_adaptive_server(ServerAdam, options)


@register
def fedavgm(
    *,
    lr: float = 1.0,
    momentum: float = 0.9,
    **common: Unpack[Common],
) -> Algorithm:
    """FedAvgM: FedAvg with momentum at the server.  Hsu et al., arXiv 1909.06335."""
    return _algorithm([Mean(), ServerSGD(lr=lr, momentum=momentum)], **common)


@register
def fedadagrad(
    *,
    lr: float = 0.01,
    tau: float = 1e-3,
    start: float | None = None,
    epsilon: Literal["outside", "inside"] = "outside",
    **common: Unpack[Common],
) -> Algorithm:
    """FedAdagrad: Adagrad at the server.  Reddi et al., arXiv 2003.00295, Algorithm 2."""
    return _algorithm([Mean(), ServerAdagrad(lr=lr, tau=tau, start=start, epsilon=epsilon)], **common)


@register
def fedyogi(**options: Unpack[AdaptiveServer]) -> Algorithm:
    """FedYogi: Yogi at the server.  Reddi et al., arXiv 2003.00295, Algorithm 2."""
    return _with_adaptive_server(ServerYogi, options)


@register
def fednova(**common: Unpack[Common]) -> Algorithm:
    """FedNova: deltas normalised by the local work.  Wang et al., arXiv 2007.07481."""
    return _algorithm([FedNova(), Mean(), ServerSGD()], **common)


@register
def feddyn(*, alpha: float = 0.1, **common: Unpack[Common]) -> Algorithm:
    """FedDyn: dynamic regularisation.  Acar et al., arXiv 2111.04263."""
    return _algorithm([FedDyn(alpha=alpha), Mean(over="clients"), ServerSGD()], **common)


@register
def qfedavg(*, q: float = 1.0, **common: Unpack[Common]) -> Algorithm:
    """q-FedAvg: clients with a high loss count more.  Li et al., arXiv 1905.10497."""
    return _algorithm([QFedAvg(q=q), Mean(over="clients"), ServerSGD()], **common)


@register
def afl(
    *,
    lr: float = 0.1,
    server_lr: float = 1.0,
    average: bool = True,
    **common: Unpack[Common],
) -> Algorithm:
    """AFL: the mixture of clients that is served worst; every client, every round.  Mohri et al., arXiv 1902.00146.

    lr: of the mixture.  average: whether the average of the models of all rounds is evaluated, as in the paper.
    The paper's clients make one step: LocalSGD(steps=1, batch_size=None).
    """
    parts = [AFL(lr=lr), ServerSGD(lr=server_lr), *([AverageModel()] if average else [])]
    return _algorithm(parts, **common)


@register
def quality(
    *,
    by: Literal["alignment", "validation", "entropy"] = "alignment",
    power: float = 1.0,
    floor: float = 0.1,
    temperature: float = 1.0,
    cap: float | None = None,
    **common: Unpack[Common],
) -> Algorithm:
    """FedAvg in which clients with better data count more; `by` names the measure (see WeighByQuality)."""
    if by == "validation" and common.get("trainer") is None:
        common["trainer"] = LocalSGD(validation=0.1)
    weigh = WeighByQuality(by=by, power=power, floor=floor, temperature=temperature, cap=cap)
    return _algorithm([weigh, Mean(), ServerSGD()], **common)


@register
def moon(
    *,
    mu: float = 1.0,
    temperature: float = 0.5,
    representation: str | None = None,
    **common: Unpack[Common],
) -> Algorithm:
    """MOON: FedAvg with a model-contrastive term in the loss.  Li et al., arXiv 2103.16257.

    Raises:
        ConfigError: if the trainer is none that takes a loss term, or has one already.
    """
    trainer = common.get("trainer") or LocalSGD()
    if not isinstance(trainer, LocalSGD) or trainer.loss_term is not None:
        found = f"{type(trainer).__name__}" if not isinstance(trainer, LocalSGD) else repr(trainer.loss_term)
        raise ConfigError(f"the recipe 'moon' adds its own term to the loss of LocalSGD, and found {found}.")
    term = Moon(mu=mu, temperature=temperature, representation=representation)
    common["trainer"] = replace(trainer, loss_term=term)
    return _algorithm([Mean(), ServerSGD()], **common)


@register
def fedbuff(
    *,
    buffer: int = 10,
    concurrency: int = 20,
    power: float = 0.5,
    max_age: int | None = None,
    server_lr: float = 1.0,
    **common: Unpack[Common],
) -> Algorithm:
    """FedBuff: the server moves on with every `buffer` updates, the late ones shortened by their age; it needs a clock.

    concurrency: the number of clients at work at once, if no sampler sets it.  Nguyen et al., arXiv 2106.06639.
    """
    parts = [Staleness(by="polynomial", power=power), Mean(over="clients"), ServerSGD(lr=server_lr)]
    quorum = Quorum(count=buffer, late="keep", max_age=max_age)
    common["sampler"] = common.get("sampler") or Uniform(count=concurrency)
    return _algorithm(parts, quorum=quorum, **common)


@register
def fedasync(
    *,
    alpha: float = 0.6,
    mu: float = 0.005,
    by: Literal["constant", "polynomial", "hinge"] = "polynomial",
    power: float = 0.5,
    slope: float = 10.0,
    grace: int = 4,
    max_age: int | None = None,
    concurrency: int = 20,
    **common: Unpack[Common],
) -> Algorithm:
    """FedAsync: each client's model is mixed into the server's as it comes, the less the older; it needs a clock.

    alpha: the share of a fresh model in the mixture.  mu: of the client's proximal term.  by, power, slope, grace: how
    age counts (see Staleness).  concurrency: the number of clients at work at once, if no sampler sets it.  Xie et al.,
    arXiv 1903.03934, Algorithm 1.
    """
    aged = Staleness(by=by, power=power, slope=slope, grace=grace)
    parts = [FedProx(mu=mu), aged, Rebase(), Mean(over="clients"), ServerSGD(lr=alpha)]
    quorum = Quorum(count=1, late="keep", max_age=max_age)
    common["sampler"] = common.get("sampler") or Uniform(count=concurrency)
    return _algorithm(parts, quorum=quorum, **common)


def options_of(make: Callable[..., Algorithm]) -> Mapping[str, Any]:
    """The options of a recipe, each with its type; `Any` where none is declared."""
    hints, options = typing.get_type_hints(make), dict[str, Any]()
    for name, parameter in inspect.signature(make).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            options[name] = hints.get(name, Any)
        elif unpacked := typing.get_args(hints.get(name)):
            options |= typing.get_type_hints(unpacked[0])
    return options


def _plus_ecgr(name: str) -> bool:
    """Whether ECGR may be put on top of a recipe."""
    return "ecgr" in options_of(RECIPES[name])


def names() -> list[str]:
    """All recipe names, and those with ECGR on top."""
    plain = sorted(RECIPES)
    return plain + [f"{name}+ecgr" for name in plain if _plus_ecgr(name)]


def is_recipe(name: str) -> bool:
    """Whether a recipe has this name, `+ecgr` after it or not."""
    base, plus, rest = name.partition("+")
    return base in RECIPES and (not plus or (rest == "ecgr" and _plus_ecgr(base)))


def recipe(name: str, **options: Any) -> Algorithm:
    """The algorithm of a recipe's name; `+ecgr` after it puts ECGR on top, with the option `ecgr` if it is given.

    Raises:
        ConfigError: for an unknown recipe or option, or a recipe that does not return an Algorithm.
    """
    base, plus, _ = name.partition("+")
    if not is_recipe(name):
        raise ConfigError(f"there is no recipe named {name!r}{RECIPES.near(name, names())}.")
    make = RECIPES[base]
    known = options_of(make)
    for option, value in options.items():
        if option not in known:
            shown = known.keys() - {"trainer", "sampler"}
            raise ConfigError(f"the recipe {base!r} has no option {option!r}{nearest(option, shown)}.")
        if known[option] is not Any:
            options[option] = convert(value, known[option], f"{base}.{option}")
    algorithm = make(**({"ecgr": True} if plus else {}) | options)
    if not isinstance(algorithm, Algorithm):
        raise ConfigError(f"the recipe {base!r} returned a {type(algorithm).__name__}, but an Algorithm is needed.")
    return algorithm


def takes_trainer(name: str) -> bool:
    """Whether the recipe of this name (or of none) trains with what it is given."""
    base = name.partition("+")[0]
    return base not in RECIPES or "trainer" in options_of(RECIPES[base])


def chain_of(name: str) -> Chain:
    """The chain of a recipe with its default numbers."""
    return recipe(name).chain
