"""The stages, one idea each.  `register` makes one of your own known by its class name."""

from headway.core.stage import stages as _registry
from headway.stages.aggregate import Mean
from headway.stages.local import FedProx, Scaffold
from headway.stages.scale import Clip, Weigh
from headway.stages.server import ServerAdam, ServerSGD
from headway.stages.steps import ECGR

__all__ = ["ECGR", "Clip", "FedProx", "Mean", "Scaffold", "ServerAdam", "ServerSGD", "Weigh", "register"]

register = _registry.register
