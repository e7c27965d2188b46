"""Headway: federated learning for clients that are not alike, not reliable and not trusted.

The public names are loaded when they are first used, so that `import headway` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "AFL": "stages",
    "Aggregator": "core.stage",
    "Algorithm": "core.algorithm",
    "All": "samplers",
    "Always": "engines",
    "AverageModel": "stages",
    "Bernoulli": "engines",
    "BySize": "samplers",
    "Chain": "core.chain",
    "ChainRefused": "core.errors",
    "ClientFailed": "core.errors",
    "Clip": "stages",
    "ClockEngine": "engines",
    "ConfigError": "core.errors",
    "Context": "core.stage",
    "DataError": "core.errors",
    "Charging": "engines",
    "Diurnal": "engines",
    "Diverged": "core.errors",
    "ECGR": "stages",
    "Examples": "data",
    "FedDyn": "stages",
    "FedNova": "stages",
    "FedProx": "stages",
    "FederatedData": "data",
    "Fixed": "samplers",
    "Fleet": "engines",
    "Flow": "core.flow",
    "HeadwayError": "core.errors",
    "Layout": "core.layout",
    "LeastAvailable": "samplers",
    "LocalEngine": "engines",
    "LocalSGD": "client",
    "LossTerm": "client",
    "Mean": "stages",
    "Moon": "client",
    "Oort": "samplers",
    "Place": "core.stage",
    "Poisson": "samplers",
    "PowerOfChoice": "samplers",
    "ProcessEngine": "engines",
    "Protocol": "core.stage",
    "QFedAvg": "stages",
    "Rebase": "stages",
    "Quorum": "core.ask",
    "RayEngine": "engines",
    "RoundRobin": "samplers",
    "RoundReport": "observe.report",
    "Run": "run",
    "RunFolderError": "core.errors",
    "Sampler": "core.sampler",
    "Scaffold": "stages",
    "Schedule": "client",
    "ServerAdagrad": "stages",
    "ServerAdam": "stages",
    "ServerSGD": "stages",
    "ServerYogi": "stages",
    "Stage": "core.stage",
    "Staleness": "stages",
    "step_rules": "client",
    "Task": "client",
    "Trace": "engines",
    "Trainer": "client",
    "Uniform": "samplers",
    "Update": "core.update",
    "Weigh": "stages",
    "WeighByQuality": "stages",
    "chain": "core.chain",
    "rounds": "run",
}
_MODULES = ("data", "models", "recipes", "stages")

__all__ = ["__version__", *sorted(_WHERE), *_MODULES]

if TYPE_CHECKING:
    from headway import data as data
    from headway import models as models
    from headway import recipes as recipes
    from headway import stages as stages
    from headway.client import LocalSGD, LossTerm, Moon, Schedule, Task, Trainer, step_rules
    from headway.core.algorithm import Algorithm
    from headway.core.ask import Quorum
    from headway.core.chain import Chain, chain
    from headway.core.errors import (
        ChainRefused,
        ClientFailed,
        ConfigError,
        DataError,
        Diverged,
        HeadwayError,
        RunFolderError,
    )
    from headway.core.flow import Flow
    from headway.core.layout import Layout
    from headway.core.sampler import Sampler
    from headway.core.stage import Aggregator, Context, Place, Protocol, Stage
    from headway.core.update import Update
    from headway.data import Examples, FederatedData
    from headway.engines import (
        Always,
        Bernoulli,
        Charging,
        ClockEngine,
        Diurnal,
        Fleet,
        LocalEngine,
        ProcessEngine,
        RayEngine,
        Trace,
    )
    from headway.observe.report import RoundReport
    from headway.run import Run, rounds
    from headway.samplers import All, BySize, Fixed, LeastAvailable, Oort, Poisson, PowerOfChoice, RoundRobin, Uniform
    from headway.stages import (
        AFL,
        ECGR,
        AverageModel,
        Clip,
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
        Weigh,
        WeighByQuality,
    )


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"headway.{_WHERE[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"headway.{name}")
    raise AttributeError(f"module 'headway' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
