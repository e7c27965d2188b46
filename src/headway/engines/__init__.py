"""Engines: where asks are run."""

from headway.engines.engine import Engine, Job
from headway.engines.local import LocalEngine

__all__ = ["Engine", "Job", "LocalEngine"]
