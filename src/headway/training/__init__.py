"""Local training of one client.  The public names are loaded when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.core.lazy_names import lazy_names

if TYPE_CHECKING:
    from headway.training.dp_sgd import DPSGD as DPSGD
    from headway.training.function_trainer import TRAINING_FUNCTIONS as TRAINING_FUNCTIONS
    from headway.training.function_trainer import FunctionTrainer as FunctionTrainer
    from headway.training.local_optimizer import LocalOptimizer as LocalOptimizer
    from headway.training.local_sgd import LocalSGD as LocalSGD
    from headway.training.loss_terms import LossTerm as LossTerm
    from headway.training.loss_terms import Moon as Moon
    from headway.training.optimizers import SGD as SGD
    from headway.training.optimizers import Adagrad as Adagrad
    from headway.training.optimizers import Adam as Adam
    from headway.training.optimizers import AdamW as AdamW
    from headway.training.optimizers import RMSprop as RMSprop
    from headway.training.schedule import Schedule as Schedule
    from headway.training.trainer import Trainer as Trainer

__getattr__ = lazy_names(
    __name__,
    {
        "dp_sgd": ("DPSGD",),
        "function_trainer": ("FunctionTrainer", "TRAINING_FUNCTIONS"),
        "local_optimizer": ("LocalOptimizer",),
        "local_sgd": ("LocalSGD",),
        "loss_terms": ("LossTerm", "Moon"),
        "optimizers": ("SGD", "Adagrad", "Adam", "AdamW", "RMSprop"),
        "schedule": ("Schedule",),
        "trainer": ("Trainer",),
    },
)
