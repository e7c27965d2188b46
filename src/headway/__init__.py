"""Headway: federated learning for clients that are not alike, not reliable and not trusted.

The public names are loaded when they are first used, so that `import headway` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "TrimmedMean": "stages",
    "NormBound": "stages",
    "NNM": "stages",
    "MultiKrum": "stages",
    "MinimumDiameter": "stages",
    "Median": "stages",
    "MeanAroundMedian": "stages",
    "MajorityVote": "stages",
    "Krum": "stages",
    "LossValidation": "stages",
    "GeometricMedian": "stages",
    "FLTrust": "stages",
    "ClientMomentum": "stages",
    "CentredClipping": "stages",
    "Bulyan": "stages",
    "Bucketing": "stages",
    "AdaptiveRobustClipping": "stages",
    "AFL": "stages",
    "Adagrad": "training",
    "Adam": "training",
    "AdamW": "training",
    "AdaptiveClip": "stages",
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
    "Context": "core.context",
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
    "GaussianNoise": "stages",
    "DPSGD": "training.dp_sgd",
    "DeviceFleet": "engines",
    "Flow": "core.flow",
    "HeadwayError": "core.errors",
    "Layout": "core.layout",
    "LeastAvailable": "samplers",
    "LocalEngine": "engines",
    "LocalGaussian": "stages",
    "LocalOptimizer": "training",
    "LocalSGD": "training.local_sgd",
    "LossTerm": "training.loss_terms",
    "MatrixNoise": "stages",
    "Mean": "stages",
    "Moon": "training.loss_terms",
    "Observer": "observe.observer",
    "Oort": "samplers",
    "Place": "core.stage",
    "Poisson": "samplers",
    "PowerOfChoice": "samplers",
    "PrivacyOptions": "experiment.run",
    "ProcessEngine": "engines",
    "Protocol": "core.stage",
    "QFedAvg": "stages",
    "Quantize": "stages",
    "RandomK": "stages",
    "Rebase": "stages",
    "Reputation": "protocol.policies",
    "Quorum": "protocol.policies",
    "RMSprop": "training",
    "RayEngine": "engines",
    "RoundRobin": "samplers",
    "RoundReport": "observe.round_report",
    "Run": "experiment.run",
    "RunFolderError": "core.errors",
    "SGD": "training",
    "Sampler": "core.sampler",
    "Scaffold": "stages",
    "SecureSum": "stages",
    "Schedule": "training.schedule",
    "ServerAdagrad": "stages",
    "ServerAdam": "stages",
    "ServerSGD": "stages",
    "ServerYogi": "stages",
    "Spaced": "samplers",
    "Stage": "core.stage",
    "Skellam": "stages",
    "Staleness": "stages",
    "step_rules": "training.step_rules",
    "Task": "model.task",
    "Trace": "engines",
    "Trainer": "training.trainer",
    "Uniform": "samplers",
    "Update": "core.update",
    "Weigh": "stages",
    "WeighByQuality": "stages",
    "chain": "core.chain",
    "rounds": "experiment.run",
}
_RENAMED = {"Fleet": "DeviceFleet"}  # names of earlier versions, which keep working
_MODULES = {"data": "data", "models": "model.zoo", "recipes": "recipes", "stages": "stages"}

__all__ = ["__version__", *sorted(_WHERE), *_MODULES]

if TYPE_CHECKING:
    from headway import data as data
    from headway import recipes as recipes
    from headway import stages as stages
    from headway.core import (
        Aggregator,
        Algorithm,
        ChainRefused,
        ClientFailed,
        ConfigError,
        Context,
        DataError,
        Diverged,
        Flow,
        HeadwayError,
        Layout,
        Place,
        Protocol,
        RunFolderError,
        Sampler,
        Stage,
        Update,
    )
    from headway.core.chain import Chain, chain
    from headway.data import Examples, FederatedData
    from headway.engines import (
        Always,
        Bernoulli,
        Charging,
        ClockEngine,
        DeviceFleet,
        Diurnal,
        LocalEngine,
        ProcessEngine,
        RayEngine,
        Trace,
    )
    from headway.experiment.run import PrivacyOptions, Run, rounds
    from headway.model import zoo as models
    from headway.model.task import Task
    from headway.observe.observer import Observer
    from headway.observe.round_report import RoundReport
    from headway.protocol.policies import Quorum, Reputation
    from headway.samplers import (
        All,
        BySize,
        Fixed,
        LeastAvailable,
        Oort,
        Poisson,
        PowerOfChoice,
        RoundRobin,
        Spaced,
        Uniform,
    )
    from headway.stages import (
        AFL,
        ECGR,
        NNM,
        AdaptiveClip,
        AdaptiveRobustClipping,
        AverageModel,
        Bucketing,
        Bulyan,
        CentredClipping,
        ClientMomentum,
        Clip,
        FedDyn,
        FedNova,
        FedProx,
        FLTrust,
        GaussianNoise,
        GeometricMedian,
        Krum,
        LocalGaussian,
        LossValidation,
        MajorityVote,
        MatrixNoise,
        Mean,
        MeanAroundMedian,
        Median,
        MinimumDiameter,
        MultiKrum,
        NormBound,
        QFedAvg,
        Quantize,
        RandomK,
        Rebase,
        Scaffold,
        SecureSum,
        ServerAdagrad,
        ServerAdam,
        ServerSGD,
        ServerYogi,
        Skellam,
        Staleness,
        TrimmedMean,
        Weigh,
        WeighByQuality,
    )
    from headway.training import (
        DPSGD,
        SGD,
        Adagrad,
        Adam,
        AdamW,
        LocalOptimizer,
        LocalSGD,
        LossTerm,
        Moon,
        RMSprop,
        Schedule,
        Trainer,
    )
    from headway.training.step_rules import step_rules


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"headway.{_WHERE[name]}"), name)
    if name in _RENAMED:
        return __getattr__(_RENAMED[name])
    if name in _MODULES:
        return importlib.import_module(f"headway.{_MODULES[name]}")
    raise AttributeError(f"module 'headway' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
