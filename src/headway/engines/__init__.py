"""Engines: where asks are run."""

from headway.engines.engine import Engine, Job
from headway.engines.engine_registry import ENGINES, build_engine, register_engine
from headway.engines.local import LocalEngine
from headway.engines.pooled import PooledEngine
from headway.engines.processes.process_engine import ProcessEngine
from headway.engines.ray.ray_engine import RayEngine
from headway.engines.virtual_clock.clock_engine import ClockEngine
from headway.engines.virtual_clock.device_availability import Always, Bernoulli, Charging, Diurnal, Trace
from headway.engines.virtual_clock.fleet import FLEETS, DeviceFleet, register_fleet

__all__ = [
    "ENGINES",
    "FLEETS",
    "Always",
    "Bernoulli",
    "ClockEngine",
    "Charging",
    "Diurnal",
    "Engine",
    "DeviceFleet",
    "Job",
    "LocalEngine",
    "PooledEngine",
    "ProcessEngine",
    "RayEngine",
    "Trace",
    "build_engine",
    "register_engine",
    "register_fleet",
]
