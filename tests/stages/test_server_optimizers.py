"""Adaptive server optimizers against torch's own, and against each variant written out in plain numbers."""

import math

import pytest
import torch

import headway as hw
from headway.core.context import ServerContext
from headway.core.flow import Flow
from headway.core.layout import Layout
from headway.core.stage import Place, stages
from headway.core.update import Update
from headway.numerics.keys import Key

SIZE, ROUNDS = 6, 12


def context(x: torch.Tensor) -> ServerContext:
    """The server's context with this model."""
    return ServerContext(0, Key.root(0), Layout.of({"w": x}), Flow(), x, population=4, asked_params=x)


def pseudo_gradients(kind: str) -> list[torch.Tensor]:
    """Changes of a model, `[ROUNDS, SIZE]`, of very unlike sizes and signs."""
    numbers = 4 * Key.root(3).derive(kind).uniform(ROUNDS * SIZE).reshape(ROUNDS, SIZE) - 2
    scale = {"plain": 1.0, "tiny": 1e-9, "huge": 1e9}.get(kind, 1.0)
    numbers = numbers * scale
    if kind == "zeros first":
        numbers[:4] = 0
    if kind == "all zero":
        numbers[:] = 0
    if kind == "one spike":
        numbers[1:] = 0
    if kind == "unlike":
        numbers = numbers * 10.0 ** torch.arange(-6, 6, 2)
    return list(numbers)


KINDS = ["plain", "tiny", "huge", "zeros first", "all zero", "one spike", "unlike"]


def walk(stage, deltas) -> torch.Tensor:
    """The model after each round, `[ROUNDS, SIZE]`."""
    x = torch.linspace(-1, 1, SIZE, dtype=torch.float64)
    state, places = stage.init(x), []
    ctx = context(x)
    for delta in deltas:
        update, state = stage.receive(Update.of(delta), state, ctx)
        x = x + update.delta
        places.append(x)
    return torch.stack(places)


def torch_walk(make, deltas) -> torch.Tensor:
    x = torch.nn.Parameter(torch.linspace(-1, 1, SIZE, dtype=torch.float64))
    optimizer, places = make([x]), []
    for delta in deltas:
        x.grad = -delta
        optimizer.step()
        places.append(x.detach().clone())
    return torch.stack(places)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("lr", "betas", "tau"), [(0.01, (0.9, 0.99), 1e-3), (0.5, (0.0, 0.5), 1e-8), (1.0, (0.5, 0.0), 1.0)]
)
def test_corrected_adam_is_torchs(kind, lr, betas, tau) -> None:
    deltas = pseudo_gradients(kind)
    own = walk(hw.ServerAdam(lr, *betas, tau, bias_correction=True), deltas)
    theirs = torch_walk(lambda p: torch.optim.Adam(p, lr=lr, betas=betas, eps=tau), deltas)
    torch.testing.assert_close(own, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [0.0, 0.1])
def test_adagrad_with_a_start_is_torchs(kind, start) -> None:
    deltas = pseudo_gradients(kind)
    own = walk(hw.ServerAdagrad(0.1, tau=1e-4, start=start), deltas)
    theirs = torch_walk(lambda p: torch.optim.Adagrad(p, lr=0.1, eps=1e-4, initial_accumulator_value=start), deltas)
    torch.testing.assert_close(own, theirs, rtol=1e-12, atol=1e-12)


def by_hand(name, deltas, *, lr, b1, b2, tau, corrected, start, epsilon) -> torch.Tensor:
    """The same with Python's numbers, one coordinate at a time."""
    places = []
    for i in range(SIZE):
        x, m, v, line = float(torch.linspace(-1, 1, SIZE, dtype=torch.float64)[i]), 0.0, start, []
        for t, delta in enumerate(deltas, 1):
            d = float(delta[i])
            m = b1 * m + (1 - b1) * d
            if name == "ServerAdam":
                v = b2 * v + (1 - b2) * d * d
            elif name == "ServerYogi":
                v = v - (1 - b2) * d * d * ((v > d * d) - (v < d * d))
            else:
                v = v + d * d
            c1, c2 = (1 - b1**t, 1 - b2**t) if corrected else (1.0, 1.0)
            if epsilon == "keras":
                step = lr * math.sqrt(c2) / c1 * m / (math.sqrt(v) + tau)
            elif epsilon == "inside":
                step = lr * (m / c1) / math.sqrt(v / c2 + tau)
            else:
                step = lr * (m / c1) / (math.sqrt(v / c2) + tau)
            x += step
            line.append(x)
        places.append(line)
    return torch.tensor(places, dtype=torch.float64).T


VARIANTS = [
    (name, corrected, start, epsilon)
    for name in ("ServerAdam", "ServerYogi", "ServerAdagrad")
    for corrected in ((False, True) if name != "ServerAdagrad" else (False,))
    for start in (None, 0.0, 1e-6, 0.1)
    for epsilon in (("outside", "keras", "inside") if name != "ServerAdagrad" else ("outside", "inside"))
]


@pytest.mark.parametrize(("name", "corrected", "start", "epsilon"), VARIANTS)
@pytest.mark.parametrize("kind", ["plain", "zeros first", "unlike"])
def test_each_variant_is_what_its_formula_says(name, corrected, start, epsilon, kind) -> None:
    options = {"bias_correction": True} if corrected else {}
    stage = getattr(hw, name)(0.05, tau=1e-2, start=start, epsilon=epsilon, **options)
    begins = start if start is not None else 0.0 if corrected else stage.tau**2
    deltas = pseudo_gradients(kind)
    b2 = getattr(stage, "beta2", 0.0)
    numbers = {"lr": 0.05, "b1": stage.beta1, "b2": b2, "tau": 1e-2}
    expected = by_hand(name, deltas, **numbers, corrected=corrected, start=begins, epsilon=epsilon)
    torch.testing.assert_close(walk(stage, deltas), expected, rtol=1e-12, atol=1e-12)


# x after three rounds of Delta = 1, -2, 0.5 from x = 0, by the formulas of the docstrings with lr = 0.1, beta1 = 0.9
# (0 for Adagrad), beta2 = 0.99, tau = 0.01; worked out with Python's `decimal`, 30 digits
GOLDEN = {
    "Adam(0.1, tau=0.01)": 0.022828689095534985,
    "Adam(0.1, tau=0.01, epsilon='inside')": 0.0059490733383419404,
    "Adam(0.1, tau=0.01, start=0.0)": 0.023172283179436266,
    "Adam(0.1, tau=0.01, start=0.0, epsilon='inside')": 0.00607129280662559,
    "Adam(0.1, tau=0.01, start=0.1)": -0.010854694523159415,
    "Adam(0.1, tau=0.01, start=0.1, epsilon='inside')": -0.01098396931096969,
    "Adam(0.1, tau=0.01, bias_correction=True)": 0.0491031998850054,
    "Adam(0.1, tau=0.01, bias_correction=True, epsilon='keras')": 0.042811965508338025,
    "Adam(0.1, tau=0.01, bias_correction=True, epsilon='inside')": 0.04937654345830457,
    "Adam(0.1, tau=0.01, bias_correction=True, start=0.1)": 0.0010008739665143735,
    "Adam(0.1, tau=0.01, bias_correction=True, start=0.1, epsilon='keras')": 0.0008304914367027105,
    "Adam(0.1, tau=0.01, bias_correction=True, start=0.1, epsilon='inside')": 0.0009872596809779011,
    "Yogi(0.1, tau=0.01)": 0.022983714559354773,
    "Yogi(0.1, tau=0.01, epsilon='inside')": 0.006080286890272524,
    "Yogi(0.1, tau=0.01, start=0.0)": 0.023330369580261304,
    "Yogi(0.1, tau=0.01, start=0.0, epsilon='inside')": 0.006203366167629821,
    "Yogi(0.1, tau=0.01, start=0.1)": -0.010652676393326545,
    "Yogi(0.1, tau=0.01, start=0.1, epsilon='inside')": -0.01078789053026114,
    "Yogi(0.1, tau=0.01, bias_correction=True)": 0.049216408103560115,
    "Yogi(0.1, tau=0.01, bias_correction=True, epsilon='keras')": 0.042917307057367314,
    "Yogi(0.1, tau=0.01, bias_correction=True, epsilon='inside')": 0.04949049576233894,
    "Yogi(0.1, tau=0.01, bias_correction=True, start=0.1)": 0.0011053033049375524,
    "Yogi(0.1, tau=0.01, bias_correction=True, start=0.1, epsilon='keras')": 0.0009318667200497393,
    "Yogi(0.1, tau=0.01, bias_correction=True, start=0.1, epsilon='inside')": 0.001092387957063861,
    "Adagrad(0.1, tau=0.01)": 0.03168814510622939,
    "Adagrad(0.1, tau=0.01, epsilon='inside')": 0.03194710365418936,
    "Adagrad(0.1, tau=0.01, start=0.0)": 0.03169236577541686,
    "Adagrad(0.1, tau=0.01, start=0.0, epsilon='inside')": 0.03195134470909222,
    "Adagrad(0.1, tau=0.01, start=0.1)": 0.02779852288651478,
    "Adagrad(0.1, tau=0.01, start=0.1, epsilon='inside')": 0.02803771917402214,
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(name) -> None:
    x = torch.zeros(1, dtype=torch.float64)
    stage = eval(name, {"Adam": hw.ServerAdam, "Yogi": hw.ServerYogi, "Adagrad": hw.ServerAdagrad})
    state = stage.init(x)
    for delta in (1.0, -2.0, 0.5):
        ctx = context(x)
        update, state = stage.receive(Update.of(torch.tensor([delta], dtype=torch.float64)), state, ctx)
        x = x + update.delta
    assert float(x) == pytest.approx(GOLDEN[name], rel=1e-14)


SHIPPED = {name: stages.get(name) for name in hw.stages.__all__ if name in stages.names()}


@pytest.mark.parametrize("name", sorted(name for name, stage in SHIPPED.items() if stage.place == Place.SERVER))
def test_no_server_optimizer_touches_statistics_or_the_paper_s_start(name) -> None:
    stage, w = SHIPPED[name](), torch.ones(SIZE, dtype=torch.float64)
    statistics = torch.tensor([0.25, -3.0], dtype=torch.float64)
    update = Update.of(0.5 * w, buffers=statistics)
    sent, _ = stage.receive(update, stage.init(w), context(w))
    assert torch.equal(sent.vectors["buffers"], statistics)
    if hasattr(stage, "tau"):
        assert torch.equal(stage.init(w)["v"], torch.full_like(w, stage.tau**2))


@pytest.mark.parametrize("start", [-1.0, -1e-9])
def test_a_start_below_zero_is_refused(start) -> None:
    with pytest.raises(hw.ConfigError, match="start must be at least 0"):
        hw.ServerAdam(start=start)
