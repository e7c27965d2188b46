"""The audit's gradient inversion: pictures sought whose gradient is the update that is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from headway.audit.audit_result import AttackRow, Gallery, Reconstruction
from headway.audit.canary_outcome import Verdict
from headway.audit.gradient_inversion import CLEAR_PSNR, InversionEffort, Inverted, invert, matched
from headway.audit.picture_grid import is_picture
from headway.audit.shadow_federation import ShadowFederation
from headway.core.algorithm import Algorithm
from headway.data import FederatedData
from headway.model.task import Task

NAME = "gradient inversion"
FEW = 8  # records that are sought together
PIXELS = 3 * 64 * 64  # numbers of the largest picture that is sought
LARGEST_MODEL = 2_000_000
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Sought:
    """What was found in one view: the ratio of each record with the nearest picture found, and which that is."""

    ratios: Tensor
    nearest: Tensor
    found: Inverted

    @property
    def best(self) -> float:
        """The best ratio, in decibels."""
        return float(self.ratios.max())


class GradientAttack:
    """Seeks pictures whose gradient points where the update of a client does, or the sum.

    The attacked client is the cohort's smallest, with as many of its records as a step takes.  Where those are more
    than can be sought together, it is attacked with `records` alone, which shows what batches protect and is not
    judged.  The attacker is given the targets.

    plain, real: the algorithm without and with protections.
    """

    def __init__(
        self,
        parts: tuple[Algorithm, FederatedData, Task, int],
        plain: Algorithm,
        cohort: Sequence[str],
        effort: InversionEffort,
        records: int = 1,
    ) -> None:
        self.real, self.data, self.task, self.seed = parts
        self.plain, self.cohort, self.effort = plain, tuple(cohort), effort
        self.client = min(self.cohort, key=lambda name: (len(self.data.train[name]), name))
        size = len(self.data.train[self.client])
        batch = getattr(self.real.trainer, "batch_size", None) or size
        self.true = min(size, batch)
        self.assumed = self.true > FEW
        self.records = records if self.assumed else self.true
        sample = self.data.store.inputs
        self.span = (float(sample.min()), float(sample.max()))
        self.galleries: list[Gallery] = []

    def missing(self, size: int) -> str | None:
        """Why there is nothing to attack, as a sentence; size: of the model."""
        shape = self.data.input_shape
        if not is_picture(shape) or self.data.store.inputs[:1].numel() > PIXELS:
            return "no gradient inversion: it seeks small pictures, and the inputs are none."
        if size > LARGEST_MODEL:
            return f"no gradient inversion: the model has {size:,} parameters, above {LARGEST_MODEL:,}."
        if not self.real.trainer.facts.paced:
            return f"no gradient inversion: {self.real.trainer.facts.name} cannot stop after one step."
        return None

    def row(self) -> AttackRow:
        """The attack on what the server sees of one local step."""
        after = self._sought(self.real)
        before = after if self.plain is self.real else self._sought(self.plain)
        verdict: Verdict = "succeeded" if after.best >= CLEAR_PSNR else "failed"
        one = self.records == 1
        who = f"{self.records} record{'' if one else 's'} of a client"
        reason = f"the picture that comes closest to {'the' if one else 'a'} record has a PSNR of {after.best:.1f} dB; "
        reason += f"from {CLEAR_PSNR:.0f} dB on it counts as reconstructed."
        if self.assumed:
            verdict = "not judged"
            reason += (
                f" It shows what the size of a batch protects: here a step is taken on {self.true} records, not on "
                f"{self.records}."
            )
        figures = {
            "psnr_before": before.best,
            "psnr": after.best,
            "fit_before": before.found.fit,
            "fit": after.found.fit,
            "records": self.records,
            "records_of_a_step": self.true,
            "iterations": self.effort.iterations,
        }
        self._show(before, after)
        seen = f"one local step on {who}"
        return AttackRow(
            NAME, "server", seen, f"{before.best:.1f} dB", f"{after.best:.1f} dB", verdict, reason, figures
        )

    def _federation(self, algorithm: Algorithm) -> ShadowFederation:
        """The federation in which the attacked client holds as many records as a step takes."""
        few = self.data.train[self.client][: self.records]
        data = replace(self.data, train={**self.data.train, self.client: few})
        return ShadowFederation(algorithm, data, self.task, self.seed)

    def _sought(self, algorithm: Algorithm) -> Sought:
        """The pictures that fit what the server of this algorithm sees."""
        federation = self._federation(algorithm)
        view = federation.round(self.cohort, steps=1)
        examples = federation.data.train_of(self.client)
        seen = view.updates.get(self.client) if federation.sees_each else view.aggregate
        flat_module = federation.flat_module
        flat_module.load(view.message.params, None, view.message.buffers)
        delta = torch.zeros(flat_module.layout.size) if seen is None else seen.delta
        generator = torch.Generator().manual_seed(federation.key.derive(NAME).seed())
        found = invert(flat_module, delta, examples.targets, self.span, generator, self.effort)
        ratios, nearest = matched(found.inputs, examples.inputs, self.span[1] - self.span[0])
        return Sought(ratios, nearest, found)

    def _show(self, before: Sought, after: Sought) -> None:
        """Keeps the records that came closest, beside what was found."""
        examples = self.data.train_of(self.client).rows(0, self.records)
        order = torch.argsort(before.ratios, descending=True, stable=True)[:SHOWN].tolist()
        items = [
            Reconstruction(
                f"{self.client}\nrecord {place}",
                examples.inputs[place],
                before.found.inputs[before.nearest[place]],
                after.found.inputs[after.nearest[place]],
                ("", f"{float(before.ratios[place]):.1f} dB", f"{float(after.ratios[place]):.1f} dB"),
            )
            for place in order
        ]
        caption = (
            "Pictures whose gradient points where the update does, found by descent from noise. "
            f"From {CLEAR_PSNR:.0f} dB on a picture counts as reconstructed."
        )
        title = f"Pictures sought in one step on {self.records} record{'s' if self.records > 1 else ''}"
        self.galleries.append(Gallery(NAME, title, caption, tuple(items), *self.span))
