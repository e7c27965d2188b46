"""What one client changes in what is noised, measured: never more than the bound that the noise is scaled by.

The aggregate is made with a client and without it, whatever the client sends: NaN, infinities, huge and tiny numbers,
statistics and control changes beside the delta, and any number of examples.
"""

import math

import pytest
import torch
from conformance.tiny import ALL_OFFERS

import headway as hw
from headway.core.context import ClientContext, ServerContext
from headway.core.flow import Flow, SamplerFacts
from headway.core.layout import Layout
from headway.core.update import Update
from headway.numerics.keys import Key
from headway.protocol.sums import ExactTotal

EXPECTED = SamplerFacts("poisson", 3.0, 6, 0.5)
NOISE = hw.GaussianNoise(1.0)
BEFORE = {
    "clip": (hw.Clip(1.5),),
    "weights with a cap": (hw.Weigh("capped", 4), hw.Clip(1.5)),
    "weights of one": (hw.Weigh("uniform"), hw.Clip(1.5)),
    "adaptive": (hw.AdaptiveClip(0.7),),
    "adaptive, half for the bit": (hw.AdaptiveClip(0.7, bit_share=0.5),),
    "adaptive, capped": (hw.Weigh("capped", 4), hw.AdaptiveClip(1e-3)),
    "control": (hw.Scaffold("II"), hw.Clip(1.5)),
    "control, adaptive": (hw.Scaffold("II"), hw.AdaptiveClip(2.0)),
}
HOSTILE = {
    "nan": [1.0, math.nan, -2.0],
    "infinite": [math.inf, 1.0, 0.0],
    "infinities": [-math.inf, math.inf, math.nan],
    "zero": [0.0, 0.0, 0.0],
    "tiny": [1e-45, 0.0, 1e-45],
    "usual": [0.3, -0.2, 0.1],
    "long": [3.0, 4.0, 12.0],
    "huge": [1e30, -1e30, 1e30],
    "largest": [3.4e38, 3.4e38, -3.4e38],
}
GOOD = ([0.5, 0.1, -0.4], [2.0, -1.0, 7.0], [0.0, 0.0, 0.0], [-9.0, 1.0, 1.0], [0.1, 0.1, 0.1])


def aggregate(links, flows, clients, dtype):
    """The aggregate of clients, each given as its vector and its number of examples."""
    layout = Layout.of({"w": torch.zeros(3, dtype=dtype)})
    w, total = torch.zeros(3, dtype=dtype), ExactTotal()
    state = links.init(w)
    for place, (numbers, examples) in enumerate(clients):
        vector = torch.tensor(numbers, dtype=dtype)
        ctx = ClientContext(
            0,
            Key.root(place),
            layout,
            flows[-1],
            w,
            examples=torch.tensor(examples),
            movement=vector,
            steps=torch.tensor(2),
            effective_lr=torch.tensor(0.2).double(),
            free_effective_lr=torch.tensor(0.2).double(),
            lr_sum=torch.tensor(0.2).double(),
        )
        update = Update.of(vector, float(examples)).with_vectors(buffers=3 * vector.flip(0))
        update, _ = links.send(update, links.remember(w), ctx, links.broadcast(state), flows)
        total.add(links.aggregator.lift(update, links.at_aggregator(ctx, flows)))
    server = ServerContext(0, Key.root(0), layout, flows[-1], w, population=6, asked_params=w)
    return links.aggregate(total, state, server, flows)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", BEFORE)
def test_a_client_changes_the_aggregate_by_the_bound_at_most(name, kind, dtype):
    links = hw.chain(*BEFORE[name], hw.Mean("expected"), NOISE)
    flows = links.trace(Flow(sampler=EXPECTED, trainer=ALL_OFFERS))
    bound = flows[-1].events[0].sensitivity
    for others in (1, len(GOOD)):  # fewer than are expected, and more
        rest = [(numbers, 3 + place) for place, numbers in enumerate(GOOD[:others])]
        for examples in (0, 1, 10**9):
            without = aggregate(links, flows, rest, dtype)
            whole = aggregate(links, flows, [*rest, (HOSTILE[kind], examples)], dtype)
            assert whole.vectors.keys() == without.vectors.keys() >= {"delta", "buffers"}
            apart = [(whole.vectors[each] - without.vectors[each]).square().sum() for each in whole.vectors]
            assert float(torch.stack(apart).sum().sqrt()) <= bound * (1 + 1e-6)


@pytest.mark.parametrize("name", BEFORE)
def test_the_bound_is_reached(name):
    """So that the test above can fail: a long update changes the aggregate by all of the bound."""
    links = hw.chain(*BEFORE[name], hw.Mean("expected"), NOISE)
    flows = links.trace(Flow(sampler=EXPECTED, trainer=ALL_OFFERS))
    rest = [(numbers, 3) for numbers in GOOD]
    one, two = (aggregate(links, flows, each, torch.float64) for each in ([*rest, (HOSTILE["huge"], 10**9)], rest))
    apart = math.sqrt(sum(float((one.vectors[each] - two.vectors[each]).square().sum()) for each in one.vectors))
    assert apart == pytest.approx(flows[-1].events[0].sensitivity, rel=1e-9)


@pytest.mark.parametrize(
    "links",
    [
        (hw.Clip(1.0), hw.Mean("examples")),
        (hw.Weigh("examples"), hw.Clip(1.0), hw.Mean("examples")),
        (hw.Weigh("examples"), hw.Clip(1.0), hw.Mean("expected")),
        (hw.Weigh("capped", 5), hw.Clip(1.0), hw.Mean("examples")),
        (hw.Clip(1.0), hw.Mean("clients")),
    ],
    ids=repr,
)
@pytest.mark.parametrize("noise", [NOISE, hw.MatrixNoise(1.0, 5, bands=1)], ids=lambda stage: type(stage).__name__)
def test_weights_by_examples_and_denominators_of_the_day_are_refused(links, noise):
    with pytest.raises(hw.ChainRefused):
        hw.chain(*links, noise)


def test_late_updates_that_are_moved_after_the_clip_are_refused():
    """Rebase adds the difference of two models to an update once it is here, beyond its bound."""
    quorum = hw.Quorum(count=2, late="keep")
    for links in ((hw.Rebase(), hw.Clip(1.0)), (hw.Staleness(), hw.Rebase(), hw.Clip(1.0))):
        with pytest.raises(hw.ChainRefused, match="not clipped") as refused:
            hw.Algorithm(hw.chain(*links, hw.Mean("expected"), NOISE), hw.LocalSGD(lr=0.1), hw.Uniform(4), quorum)
        assert refused.value.caused_by == "Rebase"
    hw.Algorithm(
        hw.chain(hw.Staleness(), hw.Clip(1.0), hw.Mean("expected"), NOISE), hw.LocalSGD(lr=0.1), hw.Uniform(4), quorum
    )
