"""Samplers: who is asked in a round."""

from headway.samplers.drawing import in_order, smallest
from headway.samplers.history import BySize, LeastAvailable, RoundRobin
from headway.samplers.oort import Oort
from headway.samplers.plain import All, Fixed, Uniform
from headway.samplers.poisson import Poisson
from headway.samplers.power import PowerOfChoice

__all__ = [
    "All",
    "BySize",
    "Fixed",
    "LeastAvailable",
    "Oort",
    "Poisson",
    "PowerOfChoice",
    "RoundRobin",
    "Uniform",
    "in_order",
    "smallest",
]
