"""Example settings of every registered stage, and everything that its hooks are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from conformance.teststages import FixedPoint, NoisyRelease
from conformance.teststages import Median as AnyMedian
from conformance.tiny import ALL_OFFERS
from headway.core.chain import chain
from headway.core.context import ClientContext, CombineContext, Context, ServerContext, StepContext
from headway.core.flow import Flow, SamplerFacts
from headway.core.layout import Layout
from headway.core.stage import Aggregator, Place, Stage
from headway.core.update import Update
from headway.numerics.keys import Key
from headway.protocol.sums import ExactTotal
from headway.stages import (
    AFL,
    ECGR,
    NNM,
    AdaptiveClip,
    AdaptiveRobustClipping,
    AverageModel,
    Bucketing,
    Bulyan,
    CentredClipping,
    ClientMomentum,
    Clip,
    FedDyn,
    FedNova,
    FedProx,
    FLTrust,
    GaussianNoise,
    GeometricMedian,
    Krum,
    LocalGaussian,
    LossValidation,
    MajorityVote,
    MatrixNoise,
    Mean,
    MeanAroundMedian,
    Median,
    MinimumDiameter,
    MultiKrum,
    NormBound,
    QFedAvg,
    Quantize,
    RandomK,
    Rebase,
    Scaffold,
    SecureSum,
    ServerAdagrad,
    ServerAdam,
    ServerSGD,
    ServerYogi,
    Skellam,
    Staleness,
    TrimmedMean,
    Weigh,
    WeighByQuality,
)
from headway.stages.secure_aggregation.secure_sum import NUMBERS

EXAMPLES: dict[str, tuple[Stage, ...]] = {
    "AverageModel": (AverageModel(),),
    "AdaptiveClip": (AdaptiveClip(), AdaptiveClip(2.0, 0.9, 0.0, 0.5)),
    "AFL": (AFL(), AFL(0.0), AFL(5.0)),
    "Clip": (Clip(), Clip(0.03), Clip(1e9), Clip(0.5, others=0.1)),
    "ECGR": (ECGR(), ECGR(0.3, 0.0), ECGR(1.0, 1.0), *(ECGR(rule=r) for r in ("smallest", "random", "centred"))),
    "FedDyn": (FedDyn(), FedDyn(2.0)),
    "FedNova": (FedNova(),),
    "FedProx": (FedProx(), FedProx(0.0), FedProx(3.0)),
    "GaussianNoise": (GaussianNoise(1.1), GaussianNoise(0.3, discrete=True)),
    "LocalGaussian": (LocalGaussian(2.0), LocalGaussian(0.1, discrete=True)),
    "MatrixNoise": (MatrixNoise(0.5, 9, bands=1), MatrixNoise(1.5, 9, "tree")),
    "Mean": (Mean("examples"), Mean("clients"), Mean("expected")),
    "RandomK": (RandomK(0.5), RandomK(1.0)),
    "Quantize": (Quantize(), Quantize(8), Quantize(32), Quantize(10, rotate=True)),
    "QFedAvg": (QFedAvg(), QFedAvg(0.0), QFedAvg(0.3)),
    "SecureSum": tuple(SecureSum(share, min_cohort=3, min_survivors=2, mode="ideal") for share in (0.7, 0.9)),
    "Scaffold": (Scaffold("I"), Scaffold("II"), Scaffold("II", "step")),
    "ServerAdam": (
        ServerAdam(),
        ServerAdam(0.3, 0.0, 0.5, 0.1, bias_correction=True),
        ServerAdam(start=0.0, epsilon="inside"),
        ServerAdam(bias_correction=True, epsilon="keras"),
    ),
    "ServerAdagrad": (ServerAdagrad(), ServerAdagrad(0.3, 0.5, 0.1), ServerAdagrad(start=0.1, epsilon="inside")),
    "ServerYogi": (ServerYogi(), ServerYogi(0.3, 0.0, 0.5, 0.1, bias_correction=True), ServerYogi(start=1e-6)),
    "Skellam": (Skellam(0.5, survivors=1), Skellam(3.0, survivors=1)),
    "ServerSGD": (ServerSGD(), ServerSGD(0.5, momentum=0.9)),
    "Rebase": (Rebase(),),
    "Median": (Median(0), Median(1)),
    "TrimmedMean": (TrimmedMean(0), TrimmedMean(1)),
    "MeanAroundMedian": (MeanAroundMedian(1),),
    "Krum": (Krum(0),),
    "MultiKrum": (MultiKrum(0), MultiKrum(0, keep=2)),
    "Bulyan": (Bulyan(0),),
    "GeometricMedian": (GeometricMedian(1),),
    "CentredClipping": (CentredClipping(1.0), CentredClipping(0.1, iterations=3, f=0)),
    "NormBound": (NormBound(1.0),),
    "NNM": (NNM(1, then=Median(1)), NNM(0, then=Krum(0))),
    "MajorityVote": (MajorityVote(2, then=TrimmedMean(0)), MajorityVote(3, 0.0)),
    "Bucketing": (Bucketing(2, then=Median(0)),),
    "AdaptiveRobustClipping": (AdaptiveRobustClipping(1, then=Median(1)),),
    "MinimumDiameter": (MinimumDiameter(1),),
    "FLTrust": (FLTrust("c000"),),
    "LossValidation": (
        LossValidation("c000", margin=None),
        LossValidation("c000", margin=None, rho=0.1, then=Median(0)),
    ),
    "ClientMomentum": (ClientMomentum(0.0), ClientMomentum(0.9)),
    "Staleness": (Staleness("constant"), Staleness(), Staleness("polynomial", 2.0), Staleness("hinge", grace=1)),
    "Weigh": (Weigh("examples"), Weigh("uniform"), Weigh("capped", 3)),
    "WeighByQuality": (
        *(WeighByQuality(by) for by in ("alignment", "validation", "entropy")),
        WeighByQuality("alignment", power=0.5, floor=0.3, cap=2.5),
        WeighByQuality("validation", power=0.0, floor=1.0, temperature=0.2),
        WeighByQuality("entropy", floor=1e-9, cap=1e4),
    ),
}
TEST_ONLY: tuple[Stage, ...] = (FixedPoint(), AnyMedian(), NoisyRelease())
REGISTERED = tuple(stage for stages in EXAMPLES.values() for stage in stages)
EVERY = REGISTERED + TEST_ONLY

LANES, SIZE, STEPS = 4, 5, 6
RAGGED = (6, 1, 0, 3)  # local steps of each lane
LAYOUT = Layout.of({"w": torch.zeros(2, 1).double(), "b": torch.zeros(3).double()})
SOME, ALL = SamplerFacts("fixed", 2.0, 8), SamplerFacts("all", 8.0, 8)


@dataclass(frozen=True)
class Case:
    """What the hooks are given.  Clients' values have a leading axis of lanes; the server's have none."""

    ctx: ClientContext
    grad: Tensor
    w: Tensor
    gram: Tensor
    memory: dict[str, Tensor]
    update: Update
    server: ServerContext
    state: dict[str, Tensor]
    aggregate: Update
    total: ExactTotal


def around(stage: Stage) -> tuple[Stage, ...]:
    """A chain in which the stage can stand."""
    if isinstance(stage, Aggregator):
        return (stage,)
    if stage.place is Place.RELEASE:
        return (Clip(), Mean("expected"), stage)
    if isinstance(stage, (Quantize, LocalGaussian)):
        return (Clip(2.0), stage, Mean())
    if isinstance(stage, SecureSum):
        return (Clip(2.0), Quantize(), stage, Mean("clients"))
    if isinstance(stage, Skellam):
        return (Clip(2.0), Quantize(8), stage, SecureSum(min_cohort=3, min_survivors=2, mode="ideal"), Mean("expected"))
    over = "clients" if isinstance(stage, (FedDyn, QFedAvg)) else "examples"
    return (stage, Mean(over)) if stage.place < Place.AGGREGATE else (Mean(), stage)


def flow_at(stage: Stage, before: bool = True, size: int = SIZE) -> Flow:
    """The facts that reach a stage in its chain, or that hold after it."""
    stages = around(stage)
    index = stages.index(stage)
    everyone = isinstance(stage, (AFL, FLTrust, MajorityVote, SecureSum, Skellam))
    start = Flow(trainer=ALL_OFFERS, sampler=ALL if everyone else SOME, size=size)
    flows = (start, *chain(*stages).trace(start))
    return flows[index + (not before)]


def case(stage: Stage, seed: int = 0) -> Case:
    """Random values for every hook of one stage."""

    def draw(name: str, *shape: int) -> Tensor:
        numbers = Key.root(seed).derive(name).uniform(torch.Size(shape).numel())
        return 4 * numbers.reshape(shape) - 2

    w, steps = draw("global", SIZE), draw("steps", LANES, STEPS, SIZE)
    steps = steps * (torch.arange(STEPS)[:, None] < torch.tensor(RAGGED)[:, None, None])
    state = {name: draw(f"state {name}", *kept.shape).abs() for name, kept in stage.init(w).items()}
    lanes = w.expand(LANES, SIZE)
    ctx = ClientContext(
        round=3,
        key=Key.root(seed).for_each("lane", names=range(LANES)),
        layout=LAYOUT,
        flow=flow_at(stage),
        global_params=w,
        received=stage.broadcast(state),
        movement=steps.sum(-2),
        steps=torch.tensor(RAGGED),
        effective_lr=0.1 * torch.tensor(RAGGED).double(),
        free_effective_lr=0.1 * torch.tensor(RAGGED).double(),
        lr_sum=0.1 * torch.tensor(RAGGED).double(),
        examples=torch.tensor([1, 7, 3, 2]),
        measurements={
            "initial_loss": draw("loss", LANES).abs(),
            "initial_gradient": draw("initial gradient", LANES, SIZE),
            "validation_loss": draw("validation loss", LANES).abs(),
            "label_entropy": draw("label entropy", LANES).abs() / 2,
        },
    )
    lengths = flow_at(stage, before=False).lengths(SIZE)
    beside = {name: draw(name, LANES, length) for name, length in lengths.items() if name not in ("delta", NUMBERS)}
    update = Update.of(draw("delta", LANES, SIZE), ctx.examples.double(), **beside)
    if ctx.flow.number == "ring":  # behind a quantiser, and of clients that count the same
        codes = {name: (1000 * vector).to(torch.int64) for name, vector in update.vectors.items()}
        update = Update(codes, torch.ones(LANES, dtype=torch.float64))
    memory = {name: draw(f"memory {name}", *kept.shape) for name, kept in stage.remember(lanes).items()}
    arrived = stage.send(update, memory, ctx)[0] if isinstance(stage, Aggregator) else update
    total = ExactTotal()
    for lane in range(LANES):
        one = arrived.lane(lane)
        total.add_row(f"c{lane:03d}", one) if is_whole_cohort(stage) else total.add(one)
    sums = {name: torch.tensor(2.0).double() for name in ("clients", "threshold")}
    return Case(
        ctx=ctx,
        grad=draw("grad", LANES, SIZE),
        w=draw("w", LANES, SIZE),
        gram=steps @ steps.mT,
        memory=memory,
        update=update,
        server=ServerContext(
            round=3,
            key=Key.root(seed),
            layout=LAYOUT,
            flow=ctx.flow,
            global_params=w,
            population=8,
            asked_params=w + 1,
            age=torch.tensor(3),
            counted=2,
        ),
        state=state,
        aggregate=replace(update.lane(1), sums=sums),
        total=total,
    )


PER_CLIENT = ("movement", "steps", "effective_lr", "free_effective_lr", "lr_sum", "examples", "measurements")


def step_context(ctx: ClientContext) -> StepContext:
    """What is known of the client while it trains."""
    return StepContext(ctx.round, ctx.key, ctx.layout, ctx.flow, ctx.global_params, ctx.received, examples=ctx.examples)


def combine_context(ctx: ClientContext) -> CombineContext:
    """What is known of the client when its steps are made."""
    shared = (ctx.round, ctx.key, ctx.layout, ctx.flow, ctx.global_params, ctx.received)
    squared = torch.linalg.vector_norm(ctx.movement, dim=-1) ** 2
    return CombineContext(*shared, examples=ctx.examples, steps=ctx.steps, squared_movement=squared)


CLIENT_HOOKS: dict[str, Callable[[Any, Case], Any]] = {
    "step": lambda stage, c: stage.step(c.grad, c.w, c.memory, step_context(c.ctx)),
    "combine": lambda stage, c: stage.combine(c.gram, combine_context(c.ctx)),
    "send": lambda stage, c: stage.send(c.update, c.memory, c.ctx),
    "lift": lambda stage, c: stage.lift(c.update, c.ctx),
}
SERVER_HOOKS: dict[str, Callable[[Any, Case], Any]] = {
    "init": lambda stage, c: stage.init(c.server.global_params),
    "remember": lambda stage, c: stage.remember(c.w),
    "broadcast": lambda stage, c: stage.broadcast(c.state),
    "decode": lambda stage, c: stage.decode(stage.send(c.update, c.memory, c.ctx)[0], c.server),
    "release": lambda stage, c: stage.release(c.aggregate, c.server),
    "receive": lambda stage, c: stage.receive(c.aggregate, c.state, c.server),
    "finish": lambda stage, c: stage.aggregate(c.total, c.state, c.server),
}


def is_whole_cohort(stage: Stage) -> bool:
    return isinstance(stage, Aggregator) and stage.whole_cohort


def hooks(stage: Stage, table: dict[str, Callable[[Any, Case], Any]]) -> list[str]:
    """The hooks of a table that a stage has; an aggregator always lifts, unless it keeps rows, and finishes."""
    border = {"lift": isinstance(stage, Aggregator) and not stage.whole_cohort, "finish": isinstance(stage, Aggregator)}
    return [hook for hook in table if (border[hook] if hook in border else stage.has(hook))]


def pairs(table: dict[str, Callable[[Any, Case], Any]], stages=EVERY) -> list[tuple[Stage, str]]:
    return [(stage, hook) for stage in stages for hook in hooks(stage, table)]


def lane_of(value: Any, index: int) -> Any:
    """One client's share of what has lanes in front; what all clients share stays whole."""
    if isinstance(value, Tensor):
        return value[index]
    if isinstance(value, dict):
        return {name: lane_of(item, index) for name, item in value.items()}
    if isinstance(value, Update):
        return value.lane(index)
    if isinstance(value, tuple):
        return tuple(lane_of(item, index) for item in value)
    if isinstance(value, Context):
        per_client = {name: lane_of(getattr(value, name), index) for name in PER_CLIENT}
        return replace(value, key=value.key[index], **per_client)
    return value


def one_client(c: Case, index: int) -> Case:
    shared = ("server", "state", "aggregate", "total")
    return replace(c, **{f.name: lane_of(getattr(c, f.name), index) for f in fields(c) if f.name not in shared})


def tensors_in(value: Any, path: str = "") -> dict[str, Tensor]:
    """Every tensor in a nest of dictionaries, tuples and dataclasses, by its path."""
    if isinstance(value, Tensor):
        return {path: value}
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, (tuple, list)):
        parts = enumerate(value)
    elif is_dataclass(value):
        parts = [(f.name, getattr(value, f.name)) for f in fields(value)]
    elif isinstance(value, ExactTotal):
        parts = [("rows", value.rows), ("bins", {n: held.bins for n, held in value.vectors.items()})]
    else:
        parts = []
    found: dict[str, Tensor] = {}
    for name, part in parts:
        found |= tensors_in(part, f"{path}/{name}")
    return found


def same_bits(a: Any, b: Any) -> bool:
    mine, theirs = tensors_in(a), tensors_in(b)
    return mine.keys() == theirs.keys() and all(_equal(mine[name], theirs[name]) for name in mine)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
