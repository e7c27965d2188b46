"""What happens at a client: the task, local trainers, memory."""

from headway.client.memory import Memory, MemoryStore
from headway.client.sgd import LocalSGD, Schedule
from headway.client.task import Task
from headway.client.trainer import Trainer, trainers

__all__ = ["LocalSGD", "Memory", "MemoryStore", "Schedule", "Task", "Trainer", "trainers"]
