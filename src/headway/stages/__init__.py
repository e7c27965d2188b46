"""The stages, one idea each.  `register` makes one of your own known by its class name."""

from headway.core.stage import stages as _registry
from headway.stages.afl import AFL
from headway.stages.aggregate import Mean
from headway.stages.late import Rebase, Staleness
from headway.stages.local import FedDyn, FedProx, Scaffold
from headway.stages.normalise import FedNova, QFedAvg
from headway.stages.quality import WeighByQuality
from headway.stages.scale import Clip, Weigh
from headway.stages.server import AverageModel, ServerAdagrad, ServerAdam, ServerSGD, ServerYogi
from headway.stages.steps import ECGR

__all__ = [
    "AFL",
    "AverageModel",
    "ECGR",
    "Clip",
    "FedDyn",
    "FedNova",
    "FedProx",
    "Mean",
    "QFedAvg",
    "Rebase",
    "Scaffold",
    "ServerAdagrad",
    "ServerAdam",
    "ServerSGD",
    "ServerYogi",
    "Staleness",
    "Weigh",
    "WeighByQuality",
    "register",
]

register = _registry.register
