"""The form of an update that may enter the sum: one at a time, and many at once."""

import math

import pytest
import torch

from headway.core.errors import UpdateRejected
from headway.core.update import Update
from headway.server.guard import guard, guard_lanes


def test_an_update_that_may_enter_gives_its_norm() -> None:
    assert guard(Update.of(torch.tensor([3.0, 4.0])), {"delta": 2}, "a") == 5.0
    assert math.isnan(guard(Update.of(torch.tensor([3, 4])), {"delta": 2}, "a", integers=True))


@pytest.mark.parametrize("value", [1e30, 3e38])
def test_huge_finite_updates_are_no_reason_and_have_a_finite_norm(value) -> None:
    huge = torch.full((4,), value)
    assert guard(Update.of(huge), {"delta": 4}, "a") == pytest.approx(2 * value)


GOOD = torch.tensor([1.0, 2.0])
REJECTED = {
    "missing": (Update({"other": GOOD}, torch.tensor(1.0)), "'delta' is missing"),
    "unknown": (Update.of(GOOD, extra=GOOD), "'extra' that the chain does not send"),
    "length": (Update.of(torch.ones(3)), r"shape \(3,\), not \(2,\)"),
    "axes": (Update.of(torch.ones(1, 2)), r"shape \(1, 2\)"),
    "kind": (Update.of(torch.tensor([1, 2])), "holds torch.int64"),
    "nan": (Update.of(torch.tensor([1.0, math.nan])), "1 NaN and 0 infinite of 2"),
    "infinite": (Update.of(torch.tensor([-math.inf, math.inf])), "0 NaN and 2 infinite of 2"),
    "negative weight": (Update.of(GOOD, -1.0), "its weight is -1"),
    "nan weight": (Update.of(GOOD, math.nan), "its weight is nan"),
    "infinite weight": (Update.of(GOOD, math.inf), "its weight is inf"),
    "sum": (Update.of(GOOD).with_sums(loss=torch.tensor(math.inf)), "its sum 'loss' is inf"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_every_rejection_names_the_client_and_the_reason(case) -> None:
    update, reason = REJECTED[case]
    with pytest.raises(UpdateRejected, match=reason) as rejection:
        guard(update, {"delta": 2}, "hospital-7")
    assert rejection.value.client == "hospital-7"
    assert "hospital-7" in str(rejection.value)
    assert rejection.value.reason in str(rejection.value)


def test_reals_are_rejected_where_integers_are_expected() -> None:
    with pytest.raises(UpdateRejected, match=r"holds torch.float32"):
        guard(Update.of(GOOD), {"delta": 2}, "a", integers=True)


def lanes(count: int = 300, width: int = 1000) -> Update:
    generator = torch.Generator().manual_seed(3)
    delta = torch.randn(count, width, generator=generator)
    scalar = torch.rand(count, 1, generator=generator)
    weight = torch.randint(1, 50, (count,), generator=generator).double()
    return Update({"delta": delta, "normaliser": scalar}, weight, {"effort": torch.rand(count, generator=generator)})


def test_what_passes_for_each_lane_passes_for_all_and_the_norms_are_the_same() -> None:
    update = lanes(4, 6)
    expected = {"delta": 6, "normaliser": 1}
    norms = guard_lanes(update, expected)
    assert norms is not None
    for lane in range(4):
        assert float(norms[lane]) == pytest.approx(guard(update.lane(lane), expected, "c"), rel=1e-6)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda u: u.with_delta(u.delta.masked_fill(torch.eye(4, 6, dtype=torch.bool), math.nan)),
        lambda u: u.with_delta(u.delta[:, :5]),
        lambda u: u.with_delta(u.delta.long()),
        lambda u: u.with_weight(u.weight - 100),
        lambda u: u.with_weight(u.weight * math.inf),
        lambda u: u.with_sums(effort=torch.full((4,), math.nan)),
        lambda u: u.with_vectors(more=u.delta),
        lambda u: Update({"delta": u.delta}, u.weight),
        lambda u: u.with_vectors(normaliser=u.vectors["normaliser"] * math.inf),
    ],
)
def test_one_bad_lane_is_noticed(spoil) -> None:
    assert guard_lanes(spoil(lanes(4, 6)), {"delta": 6, "normaliser": 1}) is None
