"""Engines: where asks are run."""

from headway.engines.availability import Always, Bernoulli, Charging, Diurnal, Trace
from headway.engines.clock import ClockEngine
from headway.engines.engine import Engine, Job
from headway.engines.fleet import FLEETS, Fleet
from headway.engines.local import LocalEngine
from headway.engines.pooled import PooledEngine
from headway.engines.processes import ProcessEngine
from headway.engines.ray import RayEngine

__all__ = [
    "FLEETS",
    "Always",
    "Bernoulli",
    "ClockEngine",
    "Charging",
    "Diurnal",
    "Engine",
    "Fleet",
    "Job",
    "LocalEngine",
    "PooledEngine",
    "ProcessEngine",
    "RayEngine",
    "Trace",
]
