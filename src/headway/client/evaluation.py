"""The metrics of a model on each client's own test part, and on a central test set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from headway.client_state.store import TRAINER, Memories
from headway.core import stopping
from headway.core.errors import ConfigError
from headway.data import Examples, FederatedData
from headway.data.dataset.client_index import ClientIndex
from headway.model.flat_module import FlatModule
from headway.model.metrics import Metric
from headway.protocol.messages import Message
from headway.training.call_trace import CallTrace

BATCH = 1024
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a cohort that is evaluated in one place, so that its numbers are those of the cohort evaluated whole.

    first, stop: the places of the clients with a result among the given ones; the others' examples complete batches.
    offset: the number of the cohort's examples before the given clients, modulo `BATCH`.
    """

    first: int = 0
    stop: int | None = None
    offset: int = 0

    def batches(self, rows: Tensor, sizes: Tensor) -> tuple[Iterator[Tensor], slice]:
        """The cohort's batches with examples of the clients that have a result, and the place of these in them.

        rows: the examples of all given clients, of which each has as many as sizes `[C]` has it.
        """
        start = int(sizes[: self.first].sum())
        stop = start + int(sizes[self.first : self.stop].sum())
        cut = -self.offset % BATCH
        each = [block for block in (rows[:cut], *rows[cut:].split(BATCH)) if len(block)]
        ends = torch.tensor([len(block) for block in each]).cumsum(0).tolist()
        begins = [end - len(block) for end, block in zip(ends, each, strict=True)]
        wanted = [place for place in range(len(each)) if begins[place] < stop and ends[place] > start]
        skipped = begins[wanted[0]] if wanted else start
        return (each[place] for place in wanted), slice(start - skipped, stop - skipped)


WHOLE = Window()


def check_central(flat_module: FlatModule) -> None:
    """Refuses to evaluate a model centrally if its statistics stay with the clients.

    Raises:
        ConfigError: the statistics that the server has are the initial ones, which no client computed.
    """
    if flat_module.keeps_statistics:
        raise ConfigError(
            "a model whose statistics stay with the clients cannot be evaluated centrally: its own are the initial "
            'ones. Choose task.buffers = "average", or use data without a central test set (data.central_share = 0 '
            "where the source has that option)."
        )


def score(flat_module: FlatModule, examples: Examples) -> dict[str, float]:
    """The mean loss and the task's metrics of the model in the flat module, over a test set that is no client's.

    Raises:
        ClientFailed: naming what failed, with its inputs.
    """
    trace = CallTrace("", who="the evaluation on the central test set")
    outputs, targets = _outputs(flat_module, examples, trace), examples.targets.cpu()
    scorers = flat_module.task.scorers | flat_module.task.pooled_scorers
    return _measured(flat_module, scorers, outputs, targets, trace) | {
        "loss": _loss(flat_module, outputs, targets, trace)
    }


def score_client(
    flat_module: FlatModule, message: Message, examples: Examples, memory: Memories, client: str
) -> dict[str, float]:
    """The same of a client's model over some of its test examples."""
    scorers = flat_module.task.scorers | flat_module.task.pooled_scorers

    def scores(flat_module: FlatModule, outputs: Tensor, targets: Tensor, trace: CallTrace) -> dict[str, float]:
        return _measured(flat_module, scorers, outputs, targets, trace) | {
            "loss": _loss(flat_module, outputs, targets, trace)
        }

    return _apart(flat_module, message, examples, memory, client, scores)


def evaluate_client(
    flat_module: FlatModule, message: Message, examples: Examples, memory: Memories, client: str
) -> dict[str, float]:
    """The metrics of one client alone, on its own test examples."""
    return _apart(flat_module, message, examples, memory, client, _client_scores)


def training_loss(
    flat_module: FlatModule, message: Message, examples: Examples, memory: Memories, client: str
) -> float:
    """The mean loss over one client's training examples."""
    return _apart(flat_module, message, examples, memory, client, _loss)


def evaluate_clients(
    flat_module: FlatModule,
    message: Message,
    data: FederatedData,
    clients: Sequence[str],
    memory: Memories,
    window: Window = WHOLE,
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """The metrics of every client that has a test part, each with what it keeps for itself; and those of all their
    examples together.

    Clients that share all of the model are evaluated in common batches, and apart otherwise.  window: the clients that
    have a result, and the batches that they share with the others, where a cohort is evaluated in several places.

    Raises:
        ClientFailed: naming the client and what failed, with its inputs.
    """
    parts = (ClientIndex.of(data.test), data.test_of)
    pool: list[tuple[Tensor, Tensor]] = []

    def scores(flat_module: FlatModule, outputs: Tensor, targets: Tensor, trace: CallTrace) -> dict[str, float]:
        if flat_module.task.pooled_scorers:
            pool.append((outputs, targets.cpu()))
        return _client_scores(flat_module, outputs, targets, trace)

    each = _of_each(flat_module, message, data, parts, clients, memory, scores, window)
    if not pool:
        return each, {}
    outputs, targets = (torch.cat(side) for side in zip(*pool, strict=True))
    trace = CallTrace("", who="the evaluation on all clients' examples together")
    return each, _measured(flat_module, flat_module.task.pooled_scorers, outputs, targets, trace)


def training_losses(
    flat_module: FlatModule,
    message: Message,
    data: FederatedData,
    clients: Sequence[str],
    memory: Memories,
    window: Window = WHOLE,
) -> dict[str, float]:
    """The mean loss over each client's training examples, as `evaluate_clients` would take it over its test part."""
    parts = (ClientIndex.of(data.train), data.train_of)
    return _of_each(flat_module, message, data, parts, clients, memory, _loss, window)


@torch.no_grad()
def _of_each(
    flat_module: FlatModule,
    message: Message,
    data: FederatedData,
    parts: tuple[ClientIndex, Callable[[str], Examples]],
    clients: Sequence[str],
    memory: Memories,
    figure: Callable[[FlatModule, Tensor, Tensor, CallTrace], T],
    window: Window,
) -> dict[str, T]:
    """A figure of the model's outputs and the targets of every client in the window that has examples in this part."""
    held, examples_of = parts
    if not bool(held.sizes.any()):
        return {}
    rows, sizes = held.rows(clients)
    own = slice(window.first, window.stop)
    tested = [client for client, size in zip(clients[own], sizes[own].tolist(), strict=True) if size]
    if not tested:
        return {}
    alike = not flat_module.personal.numel() and not flat_module.keeps
    alike = alike and not flat_module.keeps_statistics
    if not alike:
        return {client: _apart(flat_module, message, examples_of(client), memory, client, figure) for client in tested}
    flat_module.load(message.params, None, message.buffers)
    flat_module.module.eval()
    site, store = flat_module.site, data.store
    try:
        with site.evaluating():
            batches, place = window.batches(rows, sizes)
            blocks = (flat_module.to_memory_format(site.take(store, block).inputs) for block in batches)
            outputs = torch.cat([_output(flat_module, block) for block in blocks])[place]
    except Exception:  # whatever a user's model may raise
        for client in tested:  # one after another, so that the one is named on whose examples it fails
            _apart(flat_module, message, examples_of(client), memory, client, figure)
        raise
    if changed := flat_module.attributes.changed():  # which the trial before the first round did not show
        flat_module.keeps = tuple(changed)
        return {client: _apart(flat_module, message, examples_of(client), memory, client, figure) for client in tested}
    rows = rows[int(sizes[: window.first].sum()) :][: len(outputs)]
    cuts, targets = sizes[own][sizes[own] > 0].tolist(), store.targets[site.index_on_store_device(store, rows)].cpu()
    scored = zip(tested, outputs.split(cuts), targets.split(cuts), strict=True)
    return {client: figure(flat_module, o, t, CallTrace(client)) for client, o, t in scored}


def mean_metrics(scores: Mapping[str, Mapping[str, float]], sizes: Mapping[str, int]) -> dict[str, float]:
    """The mean over clients, weighted by their test examples; a client where a metric is not defined is left out."""
    result: dict[str, float] = {}
    for name in next(iter(scores.values()), {}):
        known = [(sizes[client], values[name]) for client, values in scores.items() if values[name] == values[name]]
        if known:
            result[name] = sum(size * value for size, value in known) / sum(size for size, _ in known)
    return result


def _apart(
    flat_module: FlatModule,
    message: Message,
    examples: Examples,
    memory: Memories,
    client: str,
    figure: Callable[[FlatModule, Tensor, Tensor, CallTrace], T],
) -> T:
    own = (memory.get(client) or {}).get(TRAINER, {})
    statistics = message.buffers if message.buffers is not None else own.get("statistics")
    flat_module.load(message.params, own.get("personal"), statistics)
    trace = CallTrace(client)
    return figure(flat_module, _outputs(flat_module, examples, trace), examples.targets, trace)


@torch.no_grad()
def _outputs(flat_module: FlatModule, examples: Examples, trace: CallTrace) -> Tensor:
    """The model's outputs of the examples, in main memory, where a user's metric finds them."""
    flat_module.module.eval()
    made = []
    with flat_module.site.evaluating(), trace.naming():
        for block in examples.inputs.split(BATCH):
            inputs = flat_module.to_memory_format(flat_module.site.put(block))
            trace.enter("the model's forward pass, in evaluation", inputs=inputs)
            made.append(_output(flat_module, inputs))
        return torch.cat(made)


def _output(flat_module: FlatModule, inputs: Tensor) -> Tensor:
    stopping.check()
    output: Tensor = flat_module.module(inputs).cpu()
    return output


def _client_scores(flat_module: FlatModule, outputs: Tensor, targets: Tensor, trace: CallTrace) -> dict[str, float]:
    """The mean loss and the task's metrics of one client."""
    loss = {"loss": _loss(flat_module, outputs, targets, trace)}
    return _measured(flat_module, flat_module.task.scorers, outputs, targets, trace) | loss


def _loss(flat_module: FlatModule, outputs: Tensor, targets: Tensor, trace: CallTrace) -> float:
    targets = targets.cpu()
    given = (outputs, targets) if flat_module.task.criterion.function is None else (outputs.clone(), targets.clone())
    trace.enter("the loss, in evaluation", outputs=outputs, targets=targets)
    with trace.naming():
        return float(flat_module.task.criterion.per_example(*given).double().mean())


def _measured(
    flat_module: FlatModule, scorers: Mapping[str, Metric], outputs: Tensor, targets: Tensor, trace: CallTrace
) -> dict[str, float]:
    targets, scores = targets.cpu(), dict[str, float]()
    for name, metric in scorers.items():
        # a metric of the user's may write into what it is given, which others read too
        own = any(metric is each for each in flat_module.task.metrics)
        trace.enter(f"the metric {name!r}", outputs=outputs, targets=targets)
        with trace.naming():
            scores[name] = float(metric(outputs.clone(), targets.clone()) if own else metric(outputs, targets))
    return scores
