"""The registry of trainers, with Headway's own in it."""

from headway.training.dp_sgd import DPSGD
from headway.training.function_trainer import FunctionTrainer
from headway.training.local_optimizer import LocalOptimizer
from headway.training.local_sgd import LocalSGD
from headway.training.trainer import trainers

__all__ = ["DPSGD", "FunctionTrainer", "LocalOptimizer", "LocalSGD", "trainers"]
