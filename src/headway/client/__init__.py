"""What happens at a client: the task, local trainers, memory."""

from headway.client.memory import Memory, MemoryStore
from headway.client.rules import step_rules
from headway.client.sgd import LocalSGD, Schedule
from headway.client.target_scale import TargetScale
from headway.client.task import Task
from headway.client.terms import LossTerm, Moon
from headway.client.trainer import Trainer, trainers

__all__ = [
    "LocalSGD",
    "LossTerm",
    "Memory",
    "MemoryStore",
    "Moon",
    "Schedule",
    "TargetScale",
    "Task",
    "Trainer",
    "step_rules",
    "trainers",
]
