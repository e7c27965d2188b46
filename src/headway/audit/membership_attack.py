"""Membership inference on the model that a run releases, with and without shadow models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from headway.audit.audit_result import AttackRow, Curve
from headway.audit.canary_outcome import Verdict
from headway.audit.membership import ThresholdResult, example_losses, threshold_attack
from headway.audit.shadow_federation import ShadowFederation
from headway.core.algorithm import Algorithm, State
from headway.data import FederatedData
from headway.experiment.run import Run
from headway.model.task import Task
from headway.numerics.keys import Key
from headway.privacy.options import PrivacyOptions
from headway.training.trainer import Trainer

NAME = "membership inference"
FEWEST, MOST = 50, 4000  # examples on either side
STEP_S, SPEED = 2.5e-4, 1.5e10  # of a slow core: seconds for each local step, and products in a second
RAW, CALIBRATED = "loss", "loss against shadow models"


class MembershipAttack:
    """Tells training examples from others by the loss of the released model.

    A member's score is minus its loss; with shadow models, the mean loss of those that did not train on it minus its
    loss, since some examples are hard for every model.  Shadows are trained without protections, two by two on
    complementary halves of all examples, as an attacker with data of the same kind would.

    plain: the algorithm without protections.  federation: that with them.  rounds: of each model's training.

    Reference: Yeom et al., arXiv 1709.01604, section 3; Watson et al., arXiv 2111.08440, for the calibration.
    """

    def __init__(self, plain: Algorithm, federation: ShadowFederation, task: Task, seed: int, rounds: int) -> None:
        self.plain, self.real, self.task, self.rounds = plain, federation.algorithm, task, rounds
        self.federation, self.data, self.run_seed = federation, federation.data, seed
        self.seed = federation.key.derive("membership")
        self.members, self.others = self._sides()
        self.curves: list[Curve] = []

    def _sides(self) -> tuple[Tensor, Tensor]:
        """The examples that are trained on, and those that are not, as many of each client's as of any."""
        train = torch.cat([self.data.train[client] for client in self.data.clients])
        test = torch.cat([self.data.test[client] for client in self.data.clients])
        one, two = self.seed.derive("members"), self.seed.derive("others")
        return train[one.permutation(len(train))[:MOST]], test[two.permutation(len(test))[:MOST]]

    @property
    def missing(self) -> str | None:
        """Why the attack cannot be run, as a sentence; `None` if it can."""
        if min(len(self.members), len(self.others)) < FEWEST:
            return (
                f"no membership inference: it needs {FEWEST} examples that are trained on and as many that are not, "
                f"found {len(self.members)} and {len(self.others)}."
            )
        if self.federation.flat_module.personal.numel() or self.federation.flat_module.keeps_statistics:
            return "no membership inference: part of each model stays with its client, so no whole model is released."
        return None

    def row(self, shadows: int) -> AttackRow:
        """The attack on the last model; shadows: pairs of shadow models."""
        reference = self._reference(shadows) if shadows else None
        after = self._best(self.real, reference, "with protections")
        before = after if self.plain is self.real else self._best(self.plain, reference, "without protections")
        verdict: Verdict = "succeeded" if after.succeeds else "failed"
        seen = f"the model after {self.rounds} rounds" if self.rounds > 1 else "the model after one round"
        reason = (
            f"by {after.name}, at {after.low:.0%} false alarms {after.found:.1%} of the training examples are found; "
            f"chance would find {after.low:.0%}. The area under the curve is {after.auc:.3f} (standard error "
            f"{after.error:.3f}; 0.5 is chance)."
        )
        figures = {
            "auc_before": before.auc,
            "auc": after.auc,
            "auc_error": after.error,
            "false_positive_rate": after.low,
            "true_positive_rate_before": before.found,
            "true_positive_rate": after.found,
            "members": after.members,
            "others": after.others,
            "rounds": self.rounds,
            "shadow_models": 2 * shadows,
        }
        return AttackRow(NAME, "anyone with the model", seen, _text(before), _text(after), verdict, reason, figures)

    def _best(self, algorithm: Algorithm, reference: tuple[Tensor, Tensor] | None, name: str) -> ThresholdResult:
        """The stronger of the attacks on one model; its curves are kept."""
        state = self._trained(algorithm, self.data, self.run_seed)  # the run's own model
        members, others = self._losses(state, self.members), self._losses(state, self.others)
        found = [threshold_attack(RAW, -members, -others)]
        if reference is not None:
            found.append(threshold_attack(CALIBRATED, reference[0] - members, reference[1] - others))
        best = max(found, key=lambda each: (each.succeeds, each.auc))
        self.curves.append(replace(best.curve, name=name if self.plain is not self.real else "the released model"))
        return best

    def _reference(self, pairs: int) -> tuple[Tensor, Tensor]:
        """The mean loss of the shadow models that did not train on each example."""
        sums = [torch.zeros(len(side), dtype=torch.float64) for side in (self.members, self.others)]
        for pair in range(pairs):
            for half in range(2):
                data, inside = self._half(pair, half)
                shadow = self.seed.derive("shadow", pair, half).seed() >> 1
                state = self._trained(self.plain, data, shadow)
                for total, side in zip(sums, (self.members, self.others), strict=True):
                    out = ~torch.isin(side, inside)
                    total[out] += self._losses(state, side[out])
        return sums[0] / pairs, sums[1] / pairs

    def _half(self, pair: int, half: int) -> tuple[FederatedData, Tensor]:
        """Half of each client's examples to train on, the other half left out; and which they are."""
        train = {}
        for client in self.data.clients:
            whole = torch.cat([self.data.train[client], self.data.test[client]]).sort().values
            order = whole[self.seed.derive("half", pair, client).permutation(len(whole))]
            middle = -(-len(order) // 2)
            chosen = order[:middle] if half == 0 or middle == len(order) else order[middle:]
            train[client] = chosen.sort().values
        return replace(self.data, train=train, test={}, central=None), torch.cat(list(train.values()))

    def _trained(self, algorithm: Algorithm, data: FederatedData, seed: int) -> State:
        """The server's state after the rounds."""
        options = PrivacyOptions()  # a shadow run spends nothing of a budget
        run = Run(algorithm, data, self.task, rounds=self.rounds, seed=seed, evaluate_every=None, privacy=options)
        try:
            for _ in run:
                pass
            return run.state
        finally:
            run.close()

    def _losses(self, state: State, rows: Tensor) -> Tensor:
        store = self.data.store
        return example_losses(self.federation.flat_module, state, store.inputs[rows], store.targets[rows])


def seconds_of_round(federation: ShadowFederation, cohort: Sequence[str]) -> float:
    """What a round takes on a slow core, from the model's products and the clients' steps: the same on any machine, so
    that an audit does the same work everywhere."""
    trainer, sizes = federation.algorithm.trainer, [len(federation.data.train[client]) for client in cohort]
    assert isinstance(trainer, Trainer)
    used = [trainer.examples_used(size, Key.root(0)) for size in sizes]
    batch = getattr(trainer, "batch_size", None)
    steps = sum(math.ceil(count / (batch or count)) for count in used)
    module = federation.flat_module.module
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(federation.data.store.inputs[:1].clone())
    products = int(counter.get_total_flops())
    return steps * STEP_S + sum(used) * 3 * products / SPEED


def _text(found: ThresholdResult) -> str:
    return f"area {found.auc:.3f}, {found.found:.1%} at {found.low:.0%}"
