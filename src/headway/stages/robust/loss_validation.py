"""Updates are tried on the server's own data before another rule aggregates them."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, final

from headway.core.context import ServerContext
from headway.core.errors import UpdateRejected
from headway.core.fields import at_least
from headway.core.flow import Flow
from headway.core.stage import Aggregator, Place, stages
from headway.core.update import Rows, Tensors, Update
from headway.protocol.messages import Answer, Ask, Measure
from headway.protocol.reports import Reports
from headway.protocol.sums import ExactTotal
from headway.stages.robust.central_points import NormBound
from headway.stages.robust.rule_facts import check_rule, robust_facts

if TYPE_CHECKING:
    from torch import Tensor


@final
@stages.register
@dataclass(frozen=True)
class LossValidation(Aggregator):
    """Each update is tried on the server's own root data; the ones that make the model worse there do not count.

    Formula, L being the mean loss over the root data and w the model of the round:
    `s_i = L(w) - L(w + x_i) - rho ||x_i||^2`.  The `drop` updates with the smallest s_i do not count, of equal ones the
    last by name, nor does one with `L(w + x_i) > L(w) + margin`, or a loss that is not finite; `then` aggregates the
    others.
    Shapes: rows `[C, P]`, aggregate `[P]`; all vectors that travel are in the norm.  Weights are not used.
    Units: margin is that of the loss, rho that of the loss over the square of that of the parameters.

    root: the name of the client that holds the root data as its training examples: a participant that the server's
        operator runs.  It evaluates n + 1 models in a round; its own update, where it is drawn, is left out.
    then: the rule for the updates that pass; NormBound without a limit is their mean.
    An update that does not pass is reported as refused, with both losses; where none passes, all as dropped, and the
    round changes nothing.  The rule withstands any number of attackers,
    as far as the root data stand for all clients' data; **where clients hold unlike data an honest update may make the
    loss on the root data larger**, which `margin` allows for (`None` for any loss).

    Raises:
        ConfigError: for a number out of range, or if `then` is no rule for a whole cohort.
        ChainRefused: behind a secure sum, with weights, with a sparsifier, with late updates, by a clock or on machines
            of their own, which would be waited for n + 1 times; and as `then` refuses.
        UpdateRejected: if the root does not evaluate.

    Reference: Xie, Koyejo, Gupta, arXiv 1805.10032 (Zeno), Definition 2 and Algorithm 1.
    Differs from the paper: the root data are evaluated whole, not a batch of them; `margin`; any rule may follow.

    >>> LossValidation(root="server", drop=2)
    LossValidation(root='server', drop=2, margin=0.0, rho=0.0, then=NormBound(norm=inf))
    """

    place: ClassVar[Place] = Place.AGGREGATE
    whole_cohort: ClassVar[bool] = True
    examines: ClassVar[bool] = True
    by_name: ClassVar[bool] = True
    root: str = "root"
    drop: int = at_least(0, 0)
    margin: float | None = at_least(0, 0.0)
    rho: float = at_least(0, 0.0)
    then: Aggregator = NormBound(norm=math.inf)

    def __post_init__(self) -> None:
        check_rule(self, self.then)

    def connect(self, flow: Flow) -> Flow:
        """Needs each update, of one model, and a root that answers at once; and what the rule behind it needs."""
        flow.require(self, synchronous="updates are tried on one model", immediate=True, single_updates=True)
        inner = self.then.connect(flow)
        return robust_facts(super().connect(inner), self, inner.attackers, inner.min_updates)

    def init(self, w: Tensor) -> Tensors:
        """The state of the rule behind it."""
        return self.then.init(w)

    def reduce(self, rows: Rows, state: Tensors, ctx: ServerContext) -> tuple[Update, Tensors]:
        """The other rule's aggregate of the updates that have passed."""
        return self.then.reduce(rows, state, ctx)

    def examine(self, train: Ask, answer: Answer) -> Generator[Ask, Answer, Answer]:
        """Has the root evaluate the model, alone and with each update; the answer with those that pass."""
        rows = answer.total.rows
        now = self._loss((yield self._trial(train, None)))
        losses: dict[str, float] = {}
        for client in sorted(rows.keys() - {self.root}):
            losses[client] = self._loss((yield self._trial(train, rows[client])))
        squares = {client: float(rows[client].squared_norm()) for client in losses}
        passed, total = self.passing(now, losses, squares), ExactTotal()
        for client in passed:
            total.add_row(client, rows[client])
        reasons = {client: self._reason(now, losses[client]) for client in losses if client not in passed}
        kept = [
            replace(report, status="dropped", reason="it holds the root data, and its update is left out")
            if report.client == self.root and report.status == "counted"
            else replace(report, status="rejected" if passed else "dropped", reason=reasons[report.client])
            if report.client in reasons
            else report
            for report in answer.reports
        ]
        none = "no update has passed LossValidation, so the round changes nothing."
        notes = (*answer.notes, *([] if passed else [none]))
        return replace(answer, total=total, reports=Reports.of(kept), notes=notes)

    def passing(self, now: float, losses: Mapping[str, float], squares: Mapping[str, float]) -> tuple[str, ...]:
        """The clients whose updates count, sorted; now: L(w).

        losses, squares: of each client L(w + x_i) and ||x_i||^2.

        >>> LossValidation(drop=1).passing(1.0, {"a": 0.9, "b": 0.8, "c": 1.1}, dict.fromkeys("abc", 1.0))
        ('a', 'b')
        """
        scores = {client: now - loss - self.rho * squares[client] for client, loss in losses.items()}
        worst_last = sorted(
            scores, key=lambda client: (-scores[client] if math.isfinite(scores[client]) else math.inf, client)
        )
        most = math.inf if self.margin is None else now + self.margin
        best = worst_last[: max(len(worst_last) - self.drop, 0)]
        return tuple(sorted(client for client in best if math.isfinite(losses[client]) and losses[client] <= most))

    def _trial(self, train: Ask, update: Update | None) -> Ask:
        """The request to the root for the loss of the model, or of the model with an update."""
        message = train.message
        if update is not None:
            message = replace(message, params=message.params + update.delta.to(message.params.dtype))
            if message.buffers is not None and "buffers" in update.vectors:
                moved = update.vectors["buffers"].to(message.buffers.dtype)
                message = replace(message, buffers=message.buffers + moved)
        return Ask(Measure(message, train.round, train.attempt), (self.root,), train.quorum)

    def _loss(self, answer: Answer) -> float:
        """The loss in the root's answer."""
        losses = answer.reports.with_status("counted").with_metric("train_loss").metric("train_loss")
        if not losses or losses[0] is None:
            raise UpdateRejected(self.root, "it holds the root data of LossValidation, and has not evaluated them")
        return losses[0]

    def _reason(self, now: float, loss: float) -> str:
        return (
            f"with it the loss on the root data is {loss:.4g}, without it {now:.4g}, and LossValidation leaves it out"
        )
