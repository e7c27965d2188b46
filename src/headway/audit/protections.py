"""The stages of a chain that protect, and the same algorithm without them."""

from __future__ import annotations

from dataclasses import replace

from headway.core.algorithm import Algorithm
from headway.core.chain import Chain
from headway.core.errors import ChainRefused
from headway.core.stage import Place, Stage
from headway.stages import Mean

PLACES = (Place.SPARSIFY, Place.CLIP, Place.QUANTISE, Place.NOISE, Place.MASK, Place.RELEASE)


def protections(algorithm: Algorithm) -> tuple[Stage, ...]:
    """The stages that hide or bound what an update shows: sparsifiers, clips, quantisers, noise and masks.

    >>> from headway import recipes
    >>> protections(recipes.fedavg())
    ()
    """
    return tuple(stage for stage in algorithm.chain.stages if stage.place in PLACES)


def without_protections(algorithm: Algorithm) -> Algorithm:
    """The same algorithm without these stages; a plain mean, where the rest is no chain without them.

    >>> from headway import Algorithm, All, Clip, LocalSGD, Mean, chain
    >>> without_protections(Algorithm(chain(Clip(1.0), Mean()), LocalSGD(), All())).chain
    chain(Mean(over='examples'))
    """
    found = protections(algorithm)
    if not found:
        return algorithm
    rest = tuple(stage for stage in algorithm.chain.stages if stage not in found)
    try:
        return replace(algorithm, chain=Chain(rest))
    except ChainRefused:
        return replace(algorithm, chain=Chain((Mean(),)))
