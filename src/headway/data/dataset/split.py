"""One repeatable train/test split, used for clients and for central test sets alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from headway.core.errors import ConfigError, nearest
from headway.data.dataset.client_index import ClientIndex
from headway.numerics.keys import Key

SplitKind = Literal["random", "stratified", "last", "group"]
SPLITS: tuple[SplitKind, ...] = ("random", "stratified", "last", "group")
_IN_WORDS = {
    "random": "drawn at random",
    "stratified": "drawn at random, stratified by class",
    "last": "the last in their order",
    "group": "whole groups{}, drawn at random",
}


def split(index: Tensor, test_share: float, key: Key, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Part `index` (int64 `[n]`) into `(train, test)`, both sorted; at least one example stays for training.

    The test part has `round(n * test_share)` examples, at most n - 1.  With `labels` (int64 `[n]`, of these
    examples) it is stratified: the j-th of the m examples of a class, in random order, stands at (j + 1/2)/m,
    and the examples that stand first are tested, so a class seen once is not, below a share of 1/2.

    Raises:
        ConfigError: `test_share` is not in [0, 1).

    >>> train, test = split(torch.arange(10), 0.2, Key.root(0), labels=torch.tensor([0] * 5 + [1] * 5))
    >>> len(train), sorted((test >= 5).tolist())
    (8, [False, True])
    """
    check_share(test_share)
    count = len(index)
    tested = min(int(count * test_share + 0.5), max(count - 1, 0))
    order = key.permutation(count)
    if labels is not None:
        order = order[_strata_positions(labels[order]).argsort(stable=True)]
    shuffled = index[order]
    return shuffled[tested:].sort().values, shuffled[:tested].sort().values


@dataclass(frozen=True, eq=False)
class Splitter:
    """The rule that parts each client's examples into training and test: the same for every source.

    random: `round(n test_share)` of them, drawn.  stratified: as many, drawn by class (see `split`).  last: as many,
    the last in the order of the source, such as the latest of a time series.  group: whole groups, such as all
    examples of a patient, in random order until the share is reached; at least one of a client's groups is tested
    where it has two or more.

    labels: int64 `[N]` for "stratified".  groups: int64 `[N]` for "group", and what they are called.
    """

    kind: SplitKind
    test_share: float
    labels: Tensor | None = None
    groups: Tensor | None = None
    group_name: str = ""

    @classmethod
    def of(
        cls,
        kind: str | None,
        test_share: float,
        *,
        labels: Tensor | None = None,
        groups: Tensor | None = None,
        group_name: str = "",
        usual: SplitKind | None = None,
    ) -> Splitter:
        """The rule of that name; without one `usual`, else by groups, by class or at random, as far as there are some.

        Raises:
            ConfigError: an unknown rule, one that needs classes or groups that there are not, or a share out of range.
        """
        check_share(test_share)
        if kind is not None and kind not in SPLITS:
            known = ", ".join(map(repr, SPLITS))
            raise ConfigError(f"split is {kind!r}{nearest(str(kind), SPLITS)}, but one of {known} is needed.")
        chosen = kind or ("group" if groups is not None else usual or ("random" if labels is None else "stratified"))
        if chosen == "group" and groups is None:
            raise ConfigError('split is "group", which needs group: the name of the array or column with the groups.')
        if chosen != "group" and groups is not None:
            raise ConfigError(f'group names {group_name!r}, which split = "{chosen}" has no use for; leave one out.')
        if chosen == "stratified" and labels is None:
            raise ConfigError('split is "stratified", which needs one class per example; choose "random" instead.')
        return cls(next(each for each in SPLITS if each == chosen), test_share, labels, groups, group_name)

    def part(self, index: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """The examples at `index` (int64 `[n]`) of one client as `(train, test)`, both sorted."""
        if self.kind == "last":
            tested = min(int(len(index) * self.test_share + 0.5), max(len(index) - 1, 0))
            return index[: len(index) - tested], index[len(index) - tested :]
        if self.kind == "group":
            assert self.groups is not None
            return _by_group(index, self.groups[index], self.test_share, key)
        labels = self.labels[index] if self.kind == "stratified" and self.labels is not None else None
        return split(index, self.test_share, key, labels)

    @property
    def summary(self) -> str:
        """The rule in one line."""
        if not self.test_share:
            return "no client has a test part (data.test_share = 0)"
        named = f" of {self.group_name!r}" if self.group_name else ""
        share = f"{100 * self.test_share:g} % of each client's examples"
        return f'{share} are its test part, {_IN_WORDS[self.kind].format(named)} (data.split = "{self.kind}")'

    def notes(self, train: Mapping[str, Tensor], test: Mapping[str, Tensor]) -> tuple[str, ...]:
        """Notes on groups: of clients that have one alone, and of groups that are on both sides."""
        if self.kind != "group" or self.groups is None or not self.test_share:
            return ()
        sides = [torch.cat(list(held.values())) if held else torch.empty(0).long() for held in (train, test)]
        trained, tested = (self.groups[side].unique() for side in sides)
        lines = [f"{len(tested)} of {len(self.groups.unique())} groups of {self.group_name!r} are tested"]
        if alone := sum(not len(index) for index in test.values()):
            lines.append(f"{alone} clients have examples of one group alone, and no test part")
        if both := int(torch.isin(tested, trained).sum()):
            lines.append(f"{both} groups are tested at one client and trained on at another")
        return tuple(lines)


def _by_group(index: Tensor, groups: Tensor, test_share: float, key: Key) -> tuple[Tensor, Tensor]:
    """Whole groups tested, in random order, while half of the next one still lies within the share."""
    present, place, sizes = groups.unique(return_inverse=True, return_counts=True)
    order = key.permutation(len(present))
    ends = sizes[order].cumsum(0).double()
    inside = ends - sizes[order].double() / 2 < len(index) * test_share
    inside[0] = test_share > 0 and len(present) > 1
    inside[-1] = inside[-1] & (len(present) == 0)
    tested = torch.zeros(len(present), dtype=torch.bool)
    tested[order[inside]] = True
    chosen = tested[place]
    return index[~chosen], index[chosen]


def last_tested(parts: ClientIndex, test_share: float) -> tuple[ClientIndex, ClientIndex]:
    """Part what each client holds into `(train, test)` without a draw: of n examples the last ones are tested.

    The test part has `round(n * test_share)` examples, at most n - 1.

    Raises:
        ConfigError: `test_share` is not in [0, 1).

    >>> train, test = last_tested(ClientIndex.of({"a": torch.arange(5)}), 0.4)
    >>> train["a"].tolist(), test["a"].tolist()
    ([0, 1, 2], [3, 4])
    """
    check_share(test_share)
    tested = (parts.sizes.double() * test_share + 0.5).long().minimum((parts.sizes - 1).clamp_min(0))
    kept = parts.sizes - tested
    return (
        ClientIndex(parts.names, parts.starts, kept, parts.index),
        ClientIndex(parts.names, parts.starts + kept, tested, parts.index),
    )


def check_share(test_share: float) -> None:
    """Refuses a test share outside [0, 1)."""
    if isinstance(test_share, bool) or not isinstance(test_share, int | float) or not 0 <= test_share < 1:
        raise ConfigError(f"the test share is {test_share!r}, but a number from 0 up to (not including) 1 is needed.")


def _strata_positions(labels: Tensor) -> Tensor:
    """For each example (j + 1/2)/m, where it is the j-th of m with its label; float64 `[n]`."""
    _, group, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    by_group = group.argsort(stable=True)
    first = sizes.cumsum(0) - sizes
    rank = torch.empty_like(group)
    rank[by_group] = torch.arange(len(labels)) - first[group[by_group]]
    positions: Tensor = (rank.double() + 0.5) / sizes[group].double()
    return positions
