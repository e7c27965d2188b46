"""The stages, one idea each."""

from headway.stages.aggregate import Mean
from headway.stages.local import FedProx, Scaffold
from headway.stages.scale import Clip, Weigh
from headway.stages.server import ServerAdam, ServerSGD
from headway.stages.steps import ECGR

__all__ = ["ECGR", "Clip", "FedProx", "Mean", "Scaffold", "ServerAdam", "ServerSGD", "Weigh"]
