"""One norm for all vectors, or one for the delta and another for each of the others."""

import math

import pytest
import torch
from conformance.cases import case
from test_conformance import HOSTILE

import headway as hw
from headway.core.flow import Flow
from headway.core.update import Update
from headway.stages import Clip, Mean, Scaffold


def clipped(stage, **vectors):
    return stage.send(Update(vectors, torch.tensor(1.0)), {}, case(stage).ctx)[0].vectors


def test_others_are_clipped_on_their_own():
    long = torch.tensor([3.0, 4.0])
    found = clipped(Clip(1.0, others=0.5), delta=long, control=2 * long, normaliser=torch.tensor([0.2]))
    norms = {name: float(vector.norm()) for name, vector in found.items()}
    assert norms == pytest.approx({"delta": 1.0, "control": 0.5, "normaliser": 0.2})
    together = clipped(Clip(1.0), delta=long, control=2 * long)
    assert math.hypot(*(float(vector.norm()) for vector in together.values())) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_bounds_hold_for_hostile_updates(kind):
    stage = Clip(1.0, others=0.25)
    flows = hw.chain(Scaffold(), stage, Mean()).trace(Flow(statistics=3))
    assert flows[1].bounds == {"delta": 1.0, "control": 0.25, "buffers": 0.25}
    assert flows[1].bound == pytest.approx(math.hypot(1.0, 0.25, 0.25))
    assert hw.chain(Scaffold(), stage, Mean()).trace(Flow())[1].bound == pytest.approx(math.hypot(1.0, 0.25))
    hostile = HOSTILE[kind]
    found = clipped(stage, delta=hostile, control=hostile, buffers=hostile)
    for name, vector in found.items():
        assert float(vector.double().norm()) <= flows[1].bounds[name] * (1 + 1e-6)
        assert bool(vector.isfinite().all())


def test_one_vector_that_is_not_finite_does_not_hide_behind_another():
    found = clipped(Clip(1.0, others=1.0), delta=torch.tensor([0.5, 0.0]), control=torch.tensor([math.nan, 1.0]))
    assert (found["delta"].tolist(), found["control"].tolist()) == ([0.5, 0.0], [0.0, 0.0])
