"""The stages of a chain that protect, and the same algorithm without them."""

from __future__ import annotations

from dataclasses import fields, replace

from headway.core.algorithm import Algorithm, TrainerLike
from headway.core.chain import Chain
from headway.core.errors import ChainRefused
from headway.core.registry import brief
from headway.core.stage import Place, Stage
from headway.stages import Mean
from headway.training.local_sgd import LocalSGD
from headway.training.trainer import Trainer

PLACES = (Place.SPARSIFY, Place.CLIP, Place.QUANTISE, Place.NOISE, Place.MASK, Place.RELEASE)


def protections(algorithm: Algorithm) -> tuple[Stage, ...]:
    """The stages that hide or bound what an update shows: sparsifiers, clips, quantisers, noise and masks.

    >>> from headway import recipes
    >>> protections(recipes.fedavg())
    ()
    """
    return tuple(stage for stage in algorithm.chain.stages if stage.place in PLACES)


def described(algorithm: Algorithm) -> tuple[str, ...]:
    """The protections in words, those of the trainer first.

    >>> from headway import All, Clip, DPSGD, Mean, chain
    >>> described(Algorithm(chain(Clip(0.5), Mean()), DPSGD(noise_multiplier=2.0), All()))
    ('DPSGD(noise_multiplier=2.0)', 'Clip(norm=0.5)')
    """
    found = tuple(brief(stage) for stage in protections(algorithm))
    trainer = algorithm.trainer
    return (brief(trainer), *found) if isinstance(trainer, Trainer) and trainer.facts.events else found


def without_protections(algorithm: Algorithm) -> Algorithm:
    """The same algorithm without these stages, and with plain local steps; a plain mean, where the rest is no chain
    without them.

    >>> from headway import All, Clip, LocalSGD, Mean, chain
    >>> without_protections(Algorithm(chain(Clip(1.0), Mean()), LocalSGD(), All())).chain
    chain(Mean(over='examples'))
    """
    found, trainer = protections(algorithm), _plain(algorithm.trainer)
    if not found and trainer is algorithm.trainer:
        return algorithm
    rest = tuple(stage for stage in algorithm.chain.stages if stage not in found)
    try:
        return replace(algorithm, chain=Chain(rest), trainer=trainer)
    except ChainRefused:
        return replace(algorithm, chain=Chain((Mean(),)), trainer=trainer)


def _plain(trainer: TrainerLike) -> TrainerLike:
    """A trainer whose steps have noise, without it: the numbers that it shares with `LocalSGD`."""
    if not (isinstance(trainer, Trainer) and trainer.facts.events):
        return trainer
    names = {field.name for field in fields(LocalSGD)}
    shared = {field.name: getattr(trainer, field.name) for field in fields(trainer) if field.name in names}
    if shared.get("batch_size") is None:
        shared["batch_size"] = LocalSGD().batch_size
    return LocalSGD(**{**shared, "steps": None})
