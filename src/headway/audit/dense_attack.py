"""The attack by analytic inversion on each observer's view of a round, before and after protections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headway.audit.audit_result import SERVER, AttackRow, Gallery, Reconstruction
from headway.audit.canary_outcome import Verdict
from headway.audit.dense_inversion import (
    RECOVERED,
    DenseLayer,
    Recovery,
    candidates,
    first_dense_layer,
    layer_inputs,
    recover,
    spread_of,
)
from headway.audit.feature_inversion import invert_features
from headway.audit.picture_grid import is_picture
from headway.audit.round_view import RoundView
from headway.audit.shadow_federation import ShadowFederation

NAME = "dense-layer inversion"
SHOWN = 5  # records in a gallery
RAW = (
    "Each record, and the ratio of weight and bias movements that comes closest to it. An error of 0 is the record "
    "itself; 1 is no better than the mean of all records."
)
FEATURES = (
    "The ratio of weight and bias movements gives a record's features before the first dense layer (their error is "
    "below each picture; 0 is exact); the picture is sought whose features they are."
)
ONE_STEP, WHOLE_ROUND = "one local step", "the round's local steps"


@dataclass(frozen=True, slots=True)
class Attacked:
    """The result on one observer's view: a recovery for each vector that is seen, with the clients it is of.

    used: how many records were trained on.  chance: the share of records that nobody trained on which the candidates
    come as close to.
    """

    parts: tuple[tuple[tuple[str, ...], Recovery], ...]
    used: int
    chance: float

    @property
    def count(self) -> int:
        """How many records are recovered."""
        return sum(part.count for _, part in self.parts)

    @property
    def share(self) -> float:
        """The share of the records that were trained on."""
        return self.count / self.used if self.used else 0.0


class DenseAttack:
    """Analytic inversion of the first dense layer.

    plain, real: the federation without and with protections; the same one, where there are none.
    cohort: the clients of the round.  Formula: see `dense_inversion`.

    Reference: Zhu et al., arXiv 1906.08935, for the attack on updates; Boenisch et al., arXiv 2112.02918, section 4,
    for the ratio of a layer's weights and bias.
    """

    def __init__(self, plain: ShadowFederation, real: ShadowFederation, cohort: Sequence[str]) -> None:
        self.plain, self.real, self.cohort = plain, real, tuple(cohort)
        self.data, self.module = real.data, real.flat_module.module
        self.layer = self._layer()
        self.galleries: list[Gallery] = []

    def _layer(self) -> DenseLayer | None:
        self._load()
        return first_dense_layer(self.module, self.real.flat_module.layout, self.data.store.inputs[:1])

    def _load(self) -> None:
        start = self.real.start
        self.real.flat_module.load(start.params, None, start.buffers)

    @property
    def missing(self) -> str | None:
        """Why there is nothing to attack, as a sentence; `None` if there is."""
        if self.layer is None:
            return "dense-layer inversion: the model shares no dense layer with weights and biases."
        return None

    def rows(self, steps: int | None) -> list[AttackRow]:
        """The attack on the server's view, and for the round's own steps on a client's view.

        steps: 1 for an update of one local step; `None` for those of the trainer.
        """
        after, same = self.real.round(self.cohort, steps=steps), self.plain is self.real
        before = after if same else self.plain.round(self.cohort, steps=steps)
        what = ONE_STEP if steps == 1 else WHOLE_ROUND
        found = self._server(self.real, after, steps)
        server = [found if same else self._server(self.plain, before, steps), found]
        seen = f"{'each update' if self.real.sees_each else 'the sum of the updates'}, {what}"
        rows = [self._row(SERVER, seen, *server)]
        self._show(what, *server)
        if steps is None and len(self.cohort) > 1:
            clients = [self._client(self.plain, before), self._client(self.real, after)]
            rows.append(self._row("another client", "the model before and after a round", *clients))
        return rows

    def _server(self, federation: ShadowFederation, view: RoundView, steps: int | None) -> Attacked:
        """The attack on each update, or on the sum where that is all the server sees."""
        seen: list[tuple[tuple[str, ...], Tensor]]
        if federation.sees_each:
            seen = [((client,), update.delta) for client, update in view.updates.items()]
        else:
            seen = [(self.cohort, view.aggregate.delta)] if view.aggregate is not None else []
        return self._attacked(seen, steps)

    def _client(self, federation: ShadowFederation, view: RoundView) -> Attacked:
        """The attack on the change of the model, by the cohort's first client on the others' records."""
        return self._attacked([(self.cohort[1:], view.after.params - view.before.params)], None)

    def _attacked(self, seen: Sequence[tuple[tuple[str, ...], Tensor]], steps: int | None) -> Attacked:
        parts, used, near, tried = [], 0, 0, 0
        for clients, delta in seen:
            found = self.candidates(delta)
            recovery = recover(found, self.records(clients), self.spread)
            parts.append((clients, recovery))
            used += sum(self._used(client, steps) for client in clients)
            outside = self.outside
            near += recover(found, outside, self.spread).count if len(outside) else 0
            tried += len(outside)
        return Attacked(tuple(parts), used, near / tried if tried else 0.0)

    def candidates(self, delta: Tensor) -> Tensor:
        """What the ratios of a vector's parts give."""
        assert self.layer is not None
        return candidates(self.real.flat_module.layout, delta, self.layer)

    def records(self, clients: Sequence[str]) -> Tensor:
        """The layer's inputs for the training examples of these clients, one after another."""
        return self._inputs(torch.cat([self.data.train_of(client).inputs for client in clients]))

    @property
    def spread(self) -> float:
        """The spread of all the cohort's records."""
        if not hasattr(self, "_spread"):
            self._spread = spread_of(self.records(self.cohort))
        return self._spread

    @property
    def outside(self) -> Tensor:
        """The layer's inputs for examples that nobody trains on."""
        if not hasattr(self, "_outside"):
            parts = [self.data.test_of(client).inputs for client in self.cohort if len(self.data.test[client])]
            if self.data.central is not None:
                parts.append(self.data.central.inputs[:2000])
            self._outside = self._inputs(torch.cat(parts)) if parts else torch.empty(0)
        return self._outside

    def _inputs(self, inputs: Tensor) -> Tensor:
        assert self.layer is not None
        self._load()
        return layer_inputs(self.module, self.layer, inputs)

    def _used(self, client: str, steps: int | None) -> int:
        """On how many different records the client trained."""
        size = len(self.data.train[client])
        batch = getattr(self.real.algorithm.trainer, "batch_size", None)
        return size if steps is None or batch is None else min(size, steps * batch)

    def _row(self, observer: str, seen: str, before: Attacked, after: Attacked) -> AttackRow:
        beyond = after.count > after.chance * after.used
        verdict: Verdict = "succeeded" if beyond and after.count else "failed"
        kind = "records" if self.layer is not None and self.layer.raw else "records' features"
        reason = (
            f"{after.count} of {after.used} {kind} are recovered with an error below {RECOVERED:.0%} of their spread."
        )
        figures = {
            "recovered_before": before.count,
            "recovered": after.count,
            "records": after.used,
            "share_before": before.share,
            "share": after.share,
            "share_by_chance": after.chance,
            "layer": self.layer.module if self.layer else None,
        }
        return AttackRow(NAME, observer, seen, _text(before), _text(after), verdict, reason, figures)

    def _show(self, what: str, before: Attacked, after: Attacked) -> None:
        """Keeps the records that the attack came closest to, beside what it made of them."""
        assert self.layer is not None
        if not (self.layer.raw or (self.layer.flat and is_picture(self.data.input_shape))):
            return
        chosen = [self._owner(clients, record) for _, clients, record in sorted(self._closest(before))[:SHOWN]]
        if not chosen:
            return
        made = [self._inputs_of([self._nearest(before, *owner) for owner in chosen])]
        same = self.plain is self.real
        made.append(made[0] if same else self._inputs_of([self._nearest(after, *owner) for owner in chosen]))
        items = []
        for k, (client, place) in enumerate(chosen):
            (one, near), (two, also) = made[0][k], made[1][k]
            original = self.data.train_of(client).inputs[place]
            items.append(
                Reconstruction(f"{client}\nrecord {place}", original, one, two, ("", _error(near), _error(also)))
            )
        sample = self.data.store.inputs
        caption = RAW if self.layer.raw else FEATURES
        title = f"Records read off an update of {what}"
        span = float(sample.min()), float(sample.max())
        self.galleries.append(Gallery(NAME, title, caption, tuple(items), *span, self.data.features))

    def _inputs_of(self, found: Sequence[tuple[float, Tensor] | None]) -> list[tuple[Tensor | None, float | None]]:
        """The inputs that candidates stand for, with their errors; pictures are sought for features."""
        assert self.layer is not None
        shape, known = self.data.input_shape, [each[1] for each in found if each is not None]
        if not self.layer.raw and known:
            sample = self.data.store.inputs
            span = float(sample.min()), float(sample.max())
            generator = torch.Generator().manual_seed(self.real.key.derive(NAME).seed())
            self._load()
            known = list(invert_features(self.real.flat_module, self.layer, torch.stack(known), shape, span, generator))
        made = iter(known)
        return [(None, None) if each is None else (next(made).reshape(shape), each[0]) for each in found]

    def _closest(self, attacked: Attacked) -> list[tuple[float, tuple[str, ...], int]]:
        return [
            (float(part.errors[record]), clients, record)
            for clients, part in attacked.parts
            for record in part.best(SHOWN)
            if torch.isfinite(part.errors[record])
        ]

    def _owner(self, clients: tuple[str, ...], record: int) -> tuple[str, int]:
        """The client that a record of several is of, and its place there."""
        for client in clients:
            size = len(self.data.train[client])
            if record < size:
                return client, record
            record -= size
        raise AssertionError

    def _nearest(self, attacked: Attacked, client: str, place: int) -> tuple[float, Tensor] | None:
        """The error of a record, and the candidate that comes closest to it, in what was seen."""
        for clients, part in attacked.parts:
            if client not in clients:
                continue
            before = clients[: clients.index(client)]
            record = place + sum(len(self.data.train[each]) for each in before)
            if not len(part.candidates):
                return None
            return float(part.errors[record]), part.candidates[part.nearest[record]].to(torch.float32)
        return None


def _text(attacked: Attacked) -> str:
    return f"{attacked.count} of {attacked.used} recovered"


def _error(error: float | None) -> str:
    return "" if error is None else f"error {error:.2f}"
