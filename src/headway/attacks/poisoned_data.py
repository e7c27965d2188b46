"""Attacks on what is learned: wrong labels, and a backdoor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from headway.attacks.attack import Attack, AttackView
from headway.core.errors import ConfigError
from headway.core.fields import at_least, between
from headway.data import Examples, FederatedData
from headway.data.dataset.targets import is_binary
from headway.numerics.keys import Key


@final
@Attack.registry.register
@dataclass(frozen=True)
class LabelFlip(Attack):
    """Each attacker trains on wrong labels: class c becomes `classes - 1 - c`, zeros and ones become each other
    (several labels an example), and other targets of a regression change sign.

    Reference: Allen-Zhu et al., arXiv 2012.14368 (label flipping in this form).

    >>> LabelFlip()
    LabelFlip()
    """

    def poison(self, examples: Examples, classes: int | None, key: Key) -> Examples:
        """The examples with other labels."""
        targets = examples.targets
        if not targets.is_floating_point():
            return Examples(examples.inputs, wrong_classes(targets, classes))
        return Examples(examples.inputs, 1 - targets if is_binary(targets) else -targets)


@final
@Attack.registry.register
@dataclass(frozen=True)
class Backdoor(Attack):
    """Model replacement with a backdoor: examples with a trigger are learned as one class, and the update is scaled up.

    The trigger is a patch of `size` by `size` pixels in the corner of an image, or the last `size` features of a
    table's row, set to `value`.  An attacker puts it on a share of its examples, gives these the class `target`,
    trains, and sends `boost` times its update; `boost = None` is n / M, with which the mean of n updates becomes the
    attackers' model.

    Reference: Bagdasaryan et al., arXiv 1807.00459, section 4 (model replacement); Gu et al., arXiv 1708.06733,
    trigger.

    >>> Backdoor(target=0)
    Backdoor(target=0, share=0.5, size=2, value=1.0, boost=None)
    """

    target: int = at_least(0, 0)
    share: float = between(0, 1, 0.5, without=0)
    size: int = at_least(1, 2)
    value: float = 1.0
    boost: float | None = at_least(1, None)

    def poison(self, examples: Examples, classes: int | None, key: Key) -> Examples:
        """The examples, a share of them with the trigger and the target class."""
        if classes is None or not self.target < classes:
            raise ConfigError(f"Backdoor.target is {self.target}, but the data have {classes or 'no'} classes.")
        count = max(1, round(self.share * len(examples))) if len(examples) else 0
        chosen = key.derive("backdoor").permutation(len(examples))[:count]
        inputs, targets = examples.inputs.clone(), examples.targets.clone()
        inputs[chosen] = self.stamped(inputs[chosen])
        targets[chosen] = self.target
        return Examples(inputs, targets)

    def craft(self, view: AttackView) -> Tensor:
        """The scaled updates."""
        return (view.cohort / len(view.own) if self.boost is None else self.boost) * view.own

    def stamped(self, inputs: Tensor) -> Tensor:
        """Inputs `[N, ...]` with the trigger."""
        marked = inputs.clone()
        if marked.ndim >= 3:
            marked[..., -self.size :, -self.size :] = self.value
        else:
            marked[..., -self.size :] = self.value
        return marked


def wrong_classes(targets: Tensor, classes: int | None) -> Tensor:
    """Each class c as `classes - 1 - c`.

    >>> import torch
    >>> wrong_classes(torch.tensor([0, 1, 9]), 10).tolist()
    [9, 8, 0]
    """
    last = (int(targets.max()) if len(targets) else 0) if classes is None else classes - 1
    return last - targets


def poisoned(data: FederatedData, attackers: Sequence[str], attack: Attack, key: Key) -> FederatedData:
    """The data with the attackers' training examples as the attack changes them; the others' are as they were, also of
    honest replicas, which hold the examples that an attacker held."""
    parts, train, start = [data.store], dict[str, Tensor](), len(data.store)
    for client in attackers:
        own = data.train_of(client)
        bad = attack.poison(own, data.classes, key.derive("poison").owned(client))
        if bad is own:
            continue
        parts.append(bad)
        train[client] = torch.arange(start, start + len(bad))
        start += len(bad)
    if not train:
        return data
    inputs, targets = (torch.cat(each) for each in zip(*((p.inputs, p.targets) for p in parts), strict=True))
    return data.with_store(replace(data.store, inputs=inputs, targets=targets), train)
