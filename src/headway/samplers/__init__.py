"""Samplers: the choice of the cohort of a round."""

from headway.samplers.availability import BySize, LeastAvailable, RoundRobin, Spaced
from headway.samplers.drawing import in_order, smallest
from headway.samplers.oort import Oort
from headway.samplers.poisson import Poisson
from headway.samplers.power_of_choice import PowerOfChoice
from headway.samplers.uniform import All, Fixed, Uniform

__all__ = [
    "All",
    "BySize",
    "Fixed",
    "LeastAvailable",
    "Oort",
    "Poisson",
    "PowerOfChoice",
    "RoundRobin",
    "Spaced",
    "Uniform",
    "in_order",
    "smallest",
]
