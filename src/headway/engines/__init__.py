"""Engines: where asks are run."""

from headway.engines.engine import Engine, Job
from headway.engines.local import LocalEngine
from headway.engines.pooled import PooledEngine
from headway.engines.processes import ProcessEngine
from headway.engines.ray import RayEngine

__all__ = ["Engine", "Job", "LocalEngine", "PooledEngine", "ProcessEngine", "RayEngine"]
