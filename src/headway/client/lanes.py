"""Local training of many clients as one batched program: a lane per client, parameters stacked `[C, P]`.

Gradients come from `torch.func`: `vmap` over the gradient of one client's loss.  Clients need not be alike: batches
are padded to the longest, padding has weight zero, and lanes are sorted by their number of steps, so that those
that are done are left behind and never trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from headway.client.descent import Account, Descent
from headway.client.sgd import LocalSGD, step_squares
from headway.client.start import AtStart, hold_out, measure
from headway.client.trainer import Trained, Trainer, Work
from headway.client.workbench import Workbench
from headway.core.keys import Key
from headway.core.update import Tensors
from headway.data import Examples

Stepped = Callable[[dict[str, Tensor], Tensor, Tensor, Tensor], tuple[dict[str, Tensor], Tensor]]
RECURRENT = (nn.RNNBase, nn.RNNCellBase)


def why_not(trainer: Trainer, bench: Workbench) -> str | None:
    """Why clients cannot train side by side, as a phrase; `None` if they can."""
    if not isinstance(trainer, LocalSGD):
        return f"{type(trainer).__name__} has a loop of its own"
    if trainer.loss_term is not None:
        return f"{type(trainer.loss_term).__name__} looks at each client's last model"
    if bench.personal.numel():
        return "a part of the model stays with each client"
    for name, module in bench.module.named_modules():
        if isinstance(module, RECURRENT):
            return f"{name} is recurrent"
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p:
            return f"{name} draws at random"
    if buffer := next(iter(dict(bench.module.named_buffers())), None):
        return f"the model keeps statistics ({buffer})"
    return None


@dataclass
class _Lane:
    """One client: what it trains on, and where each of its batches lies in the stacked examples."""

    work: Work
    examples: Examples
    start: AtStart
    finished: bool
    batches: list[tuple[Tensor, float]]
    account: Account


class Lanes:
    """Trains groups of clients on a workbench whose model is never moved: it is called with stacked parameters."""

    def __init__(self, trainer: LocalSGD, bench: Workbench) -> None:
        self.trainer, self.bench = trainer, bench
        self.stepped = _stepped(bench)

    def train(self, works: Sequence[Work]) -> list[Trained]:
        """What each client's training did, in the order given; all start from the same model."""
        lanes = [self._lane(work) for work in works]
        order = sorted(range(len(lanes)), key=lambda i: -len(lanes[i].batches))
        results = dict(zip(order, _Program(self, [lanes[i] for i in order]).run(), strict=True))
        return [results[i] for i in range(len(lanes))]

    def _lane(self, work: Work) -> _Lane:
        t = self.trainer
        examples, held_out = hold_out(work.examples, t.validation)
        work = replace(work, examples=examples)
        start = measure(work, held_out)
        amount, finished = t.amount(work.key)
        batches: list[tuple[Tensor, float]] = []
        for drawn, cuts in t.epochs_of(len(examples), work.key, amount, work.ctx.round):
            visited = torch.arange(len(examples)) if drawn is None else drawn
            batches += [(visited[begin:end], lr) for begin, end, lr in cuts]
        account = Account(t.momentum, t.nesterov, work.flows[-1].proximal)
        return _Lane(work, examples, start, finished, batches, account)


class _Program:
    """The steps of some lanes, those with most steps first."""

    def __init__(self, lanes: Lanes, each: Sequence[_Lane]) -> None:
        self.trainer, self.bench, self.stepped, self.each = lanes.trainer, lanes.bench, lanes.stepped, each
        first = each[0].work
        self.measure = first.measure and "steps" not in first.flows[-1].needs
        self.start = first.ctx.global_params
        self.vectors = self.start.expand(len(each), -1).clone()
        self.inputs = torch.cat([lane.examples.inputs for lane in each])
        self.targets = torch.cat([lane.examples.targets for lane in each])
        sizes = torch.tensor([len(lane.examples) for lane in each])
        self.offsets = (sizes.cumsum(0) - sizes).tolist()
        self.steps: Tensor | None = None
        if "steps" in first.flows[-1].needs:
            self.steps = self.vectors.new_zeros(len(each), len(each[0].batches), self.vectors.shape[1])
        self.losses: list[Tensor] = []
        self.lengths: list[Tensor] = []
        self.lrs: list[list[float]] = []
        self.active = len(each)
        self._look_at_front()
        layout = self.bench.layout
        self.descent = Descent(self.trainer, self._work(), list(self.views.values()), layout.slices(self.vectors), True)

    def run(self) -> list[Trained]:
        """All steps, and what each lane did."""
        self.bench.module.train()
        for number in range(len(self.each[0].batches)):
            self._leave_behind(number)
            self._step(number)
        return [self._result(index) for index in range(len(self.each))]

    def _leave_behind(self, number: int) -> None:
        """Goes on with the lanes that have a batch of this number."""
        active = self.active
        while len(self.each[active - 1].batches) <= number:
            active -= 1
        if active < self.active:
            self.active = active
            self._look_at_front()
            self.descent.keep_front(active)
            self.descent.attend(self._work())

    def _look_at_front(self) -> None:
        self.views = self.bench.layout.views(self.vectors[: self.active])

    def _step(self, number: int) -> None:
        """One step of every active lane."""
        batches = [lane.batches[number] for lane in self.each[: self.active]]
        index, weights = _padded([visited for visited, _ in batches], self.offsets, self.vectors.dtype)
        grads, losses = self.stepped(self.views, self.inputs[index], self.targets[index], weights)
        before = self.vectors[: self.active].clone() if self.steps is not None else None
        with torch.no_grad():
            directions = self.descent.directions([grads[name] for name in self.views])
            lrs = [lr for _, lr in batches]
            for view, direction in zip(self.views.values(), directions, strict=True):
                _descend(view, direction, lrs)
            if self.measure:
                self.lengths.append(self.descent.lengths(directions, self.bench.shared_count).T)
            if self.steps is not None and before is not None:
                torch.sub(self.vectors[: self.active], before, out=self.steps[: self.active, number])
        self.losses.append(losses.detach())
        self.lrs.append(lrs)
        for lane, (visited, lr) in zip(self.each, batches, strict=False):
            lane.account.step(len(visited), lr)

    def _work(self) -> Work:
        """What the step rules of the active lanes see: memory and context stacked."""
        works = [lane.work for lane in self.each[: self.active]]
        memory: dict[str, Tensors] = {}
        for label, _ in works[0].chain.step_rules:
            if label in works[0].memory:
                names = works[0].memory[label]
                memory[label] = {name: torch.stack([work.memory[label][name] for work in works]) for name in names}
        keys = tuple(work.ctx.key for work in works)
        assert all(isinstance(key, Key) for key in keys)
        examples = torch.stack([work.ctx.examples for work in works if work.ctx.examples is not None])
        return replace(works[0], ctx=replace(works[0].ctx, key=keys, examples=examples), memory=memory)  # type: ignore[arg-type]

    def _result(self, index: int) -> Trained:
        lane = self.each[index]
        count = len(lane.batches)
        squares = None
        if self.measure:
            lengths, lrs = self.lengths[:count], self.lrs[:count]
            squares = step_squares([each[index] for each in lengths], [each[index] for each in lrs])
        return Trained(
            movement=self.vectors[index] - self.start,
            count=count,
            gain=lane.account.gain,
            lr_sum=lane.account.lr_sum,
            loss=lane.account.mean_loss([float(losses[index]) for losses in self.losses[:count]]),
            steps=None if self.steps is None else self.steps[index, :count],
            initial_loss=lane.start.initial_loss,
            initial_gradient=lane.start.initial_gradient,
            validation_loss=lane.start.validation_loss,
            label_entropy=lane.start.label_entropy,
            finished=lane.finished,
            squares=squares,
        )


def _stepped(bench: Workbench) -> Stepped:
    """Gradients and losses of all lanes: of parameters `[C, *shape]`, batches `[C, B, ...]` and weights `[C, B]`."""
    module, per_example = bench.module, bench.task.criterion.per_example

    def loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        outputs = functional_call(module, parameters, (inputs,))
        return (per_example(outputs, targets) * weights).sum()

    gradients: Stepped = vmap(grad_and_value(loss))
    return gradients


def _padded(batches: Sequence[Tensor], offsets: Sequence[int], number: torch.dtype) -> tuple[Tensor, Tensor]:
    """Where each lane's examples lie, int64 `[C, B]`, and what each counts in the lane's mean, `[C, B]`.

    Padding repeats the lane's first example, with weight zero.
    """
    width = max(len(batch) for batch in batches)
    full = [torch.cat([batch, batch[:1].expand(width - len(batch))]) for batch in batches]
    index = torch.stack([batch + offset for batch, offset in zip(full, offsets, strict=False)])
    sizes = torch.tensor([len(batch) for batch in batches]).unsqueeze(1)
    return index, (torch.arange(width) < sizes).to(number) / sizes


def _descend(view: Tensor, direction: Tensor, lrs: Sequence[float]) -> None:
    """`w <- w - lr direction`, each lane by its own learning rate."""
    if len(set(lrs)) == 1:
        view.add_(direction, alpha=-lrs[0])
        return
    rates = torch.tensor(lrs, dtype=view.dtype).view(-1, *(1,) * (view.ndim - 1))
    view.sub_(direction * rates)
