"""Weighing by quality against slow references, and what it refuses."""

from dataclasses import replace
from math import exp, log

import pytest
import torch
from conformance import reference
from conformance.cases import case, one_client
from conformance.reference import local_steps, norm, plus, summed
from conformance.teststages import FixedPoint, Median, PairwiseMasks
from conformance.tiny import Loop, engine, quadratics
from toys import blobs, linear_task

import headway as hw
from headway.core.flow import TrainerFacts
from headway.core.update import Update
from headway.stages.quality_weighting import cosine

ROUNDS = 6
FULL = ((0, 1, 2, 3, 4),) * ROUNDS
PARTIAL = ((0, 3), (1, 2), (4, 0), (2, 3), (0, 1), (3, 4))
PROBLEMS = quadratics(clients=5, size=3, seed=11)
PLAIN = [(p.A.tolist(), p.b.tolist(), p.examples) for p in PROBLEMS]
LOOP = Loop(steps=7, lr=0.02, momentum=0.9)


def quality(by, problem, start, delta, last, floor, temperature):
    """q_i over Python floats."""
    A, b, n = problem
    if by == "alignment":
        lengths = norm(delta) * norm(last)
        score = (1 + sum(d * a for d, a in zip(delta, last, strict=True)) / lengths) / 2 if lengths else 1.0
    elif by == "validation":  # the tiny engine validates a little beside the model
        gap = [x + 0.1 - c for x, c in zip(start, b, strict=True)]
        loss = sum(gap[r] * A[r][c] * gap[c] for r in range(len(b)) for c in range(len(b))) / 2
        score = exp(-loss / temperature)
    else:
        score = 1 / n  # what the tiny engine calls the entropy of its labels
    return floor + (1 - floor) * score


def by_hand(cohorts, *, by, power, floor, temperature, cap, reaggregate):
    x, last = [1.0, 1.5, 2.0], [0.0] * 3
    for cohort in cohorts:
        top, bottom = [0.0] * 3, 0.0
        for i in cohort:
            delta = reaggregate(local_steps(PLAIN[i], x, LOOP.steps, LOOP.lr, LOOP.momentum))
            size = min(PLAIN[i][2] ** power, cap or float("inf"))
            weight = size * quality(by, PLAIN[i], x, delta, last, floor, temperature)
            top, bottom = plus(top, delta, weight), bottom + weight
        last = [t / bottom for t in top]
        x = plus(x, last)
    return x


@pytest.mark.parametrize("by", ["alignment", "validation", "entropy"])
@pytest.mark.parametrize("cohorts", [FULL, PARTIAL], ids=["full", "partial"])
@pytest.mark.parametrize("ecgr", [None, (0.5, 0.2)])
@pytest.mark.parametrize(("power", "cap"), [(1.0, None), (0.5, 3.0), (0.0, None)])
def test_agrees_with_the_slow_reference(by, cohorts, ecgr, power, cap) -> None:
    numbers = {"power": power, "floor": 0.05, "temperature": 3.0, "cap": cap}
    combine = [hw.ECGR(*ecgr)] if ecgr else []
    tiny = engine(*combine, hw.WeighByQuality(by, **numbers), hw.Mean(), problems=PROBLEMS, loop=LOOP, rounds=cohorts)
    expected = by_hand(cohorts, by=by, reaggregate=reference.ecgr(*ecgr) if ecgr else summed, **numbers)
    torch.testing.assert_close(
        tiny.run(ROUNDS).params, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-13
    )
    plain = engine(*combine, hw.Mean(), problems=PROBLEMS, loop=LOOP, rounds=cohorts).run(ROUNDS).params
    assert float((tiny.run(ROUNDS).params - plain).norm()) > 1e-3


def test_the_first_round_by_alignment_is_fedavg_to_the_bit() -> None:
    weighed = engine(hw.WeighByQuality(), hw.Mean(), problems=PROBLEMS)
    plain = engine(hw.Mean(), problems=PROBLEMS)
    assert torch.equal(weighed.run(1).params, plain.run(1).params)
    assert not torch.equal(weighed.run(2).params, plain.run(2).params)


def test_a_client_that_pulls_back_counts_least() -> None:
    stage = hw.WeighByQuality(floor=0.2)
    given = one_client(case(stage), 1)
    ctx = replace(given.ctx, received={"aggregate": torch.tensor([1.0, 0, 0, 0, 0]).double()})
    weights = []
    for along in (-3.0, 0.0, 5.0):
        across = 1.0 if along == 0.0 else 0.0
        delta = torch.tensor([along, across, 0, 0, 0]).double()
        weights.append(float(stage.send(Update.of(delta), {}, ctx)[0].weight))
    assert weights == pytest.approx([7 * 0.2, 7 * 0.6, 7.0])


HOSTILE = [
    torch.full((5,), torch.nan),
    torch.tensor([torch.inf, 0, 0, 0, -torch.inf]),
    torch.zeros(5),
    torch.full((5,), 1.7e308, dtype=torch.float64),
    torch.full((5,), 5e-324, dtype=torch.float64),
    torch.tensor([3.4e38, -3.4e38, 1.0, 0, 0]),
]


@pytest.mark.parametrize("delta", HOSTILE, ids=lambda d: str(d[0].item()))
@pytest.mark.parametrize("aggregate", HOSTILE[2:5], ids=lambda d: str(d[0].item()))
def test_weights_are_finite_for_hostile_updates(delta, aggregate) -> None:
    stage = hw.WeighByQuality(floor=0.2, cap=5.0)
    given = one_client(case(stage), 1)
    sent, _ = stage.send(Update.of(delta), {}, replace(given.ctx, received={"aggregate": aggregate}))
    assert 0.2 * 5 - 1e-9 <= float(sent.weight) <= 5.0
    if not delta.isfinite().all():
        assert float(sent.weight) == pytest.approx(0.2 * 5)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -1e300, 0.0, 1e300])
@pytest.mark.parametrize("by", ["validation", "entropy"])
def test_weights_are_finite_for_hostile_numbers(by, number) -> None:
    stage = hw.WeighByQuality(by, floor=0.2)
    given = one_client(case(stage), 1)
    told = {"validation_loss": torch.tensor(number).double(), "label_entropy": torch.tensor(number).double()}
    sent, _ = stage.send(given.update, {}, replace(given.ctx, measurements=told))
    assert 0.2 * 7 - 1e-12 <= float(sent.weight) <= 7.0


def test_the_cosine_of_huge_and_tiny_vectors() -> None:
    one, other = torch.tensor([3.0, 4.0]).double(), torch.tensor([4.0, 3.0]).double()
    for scale in (1e-300, 1.0, 1e300):
        assert float(cosine(one * scale, other / 7)) == pytest.approx(24 / 25, rel=1e-12)


def test_without_a_direction_there_is_nothing_against_a_client() -> None:
    some, none = torch.tensor([3.0, -4.0]), torch.zeros(2)
    assert [float(cosine(a, b)) for a, b in ((some, none), (none, some), (none, none))] == [1.0, 1.0, 1.0]


REFUSED = {
    "a sum by validation": lambda: hw.chain(hw.WeighByQuality("validation"), FixedPoint(), PairwiseMasks(), hw.Mean()),
    "a sum by entropy": lambda: hw.chain(hw.WeighByQuality("entropy"), FixedPoint(), PairwiseMasks(), hw.Mean()),
    "clients that count the same": lambda: hw.chain(hw.WeighByQuality(), hw.Mean("clients")),
    "no upper limit": lambda: hw.chain(hw.WeighByQuality(), hw.Mean("expected")),
    "FedDyn": lambda: hw.chain(hw.FedDyn(), hw.WeighByQuality(), hw.Mean()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_and_the_stage_named(name) -> None:
    with pytest.raises(hw.ChainRefused) as refusal:
        REFUSED[name]()
    said = refusal.value
    assert all(part.strip() for part in (said.needed, said.found, said.do_this))
    assert said.caused_by == ("FedDyn" if name == "FedDyn" else "WeighByQuality")


@pytest.mark.parametrize("order", [1, -1])
def test_two_stages_that_set_weights_are_refused(order) -> None:
    with pytest.raises(hw.ChainRefused, match="one stage that sets the weights"):
        hw.chain(*[hw.Weigh(), hw.WeighByQuality()][::order], hw.Mean())


def test_what_composes_is_accepted() -> None:
    hw.chain(hw.WeighByQuality("alignment"), hw.Clip(), FixedPoint(), PairwiseMasks(), hw.Mean())
    hw.chain(hw.WeighByQuality("entropy", cap=9.0), hw.Clip(), hw.Mean("expected"))
    hw.chain(hw.Scaffold(), hw.ECGR(), hw.WeighByQuality(), hw.Mean(), hw.ServerAdam())
    hw.chain(hw.WeighByQuality(), Median())


def test_a_trainer_that_holds_nothing_out_is_refused_with_the_way_out() -> None:
    with pytest.raises(hw.ChainRefused, match=r"validation loss.*found: LocalSGD.*LocalSGD\(validation=0.1\)"):
        hw.Algorithm(hw.chain(hw.WeighByQuality("validation"), hw.Mean()), hw.LocalSGD(), hw.All())
    assert "validation_loss" not in TrainerFacts("Own").offers


@pytest.mark.parametrize(
    "numbers",
    [{"by": "luck"}, {"power": -1.0}, {"floor": 0.0}, {"floor": 1.1}, {"temperature": 0.0}, {"cap": 0.0}],
    ids=repr,
)
def test_numbers_out_of_range_are_refused(numbers) -> None:
    with pytest.raises(hw.ConfigError, match="WeighByQuality"):
        hw.WeighByQuality(**numbers)


class TestWholeRuns:
    """The weights that clients report, from the data themselves."""

    data = blobs(sizes=(7, 12, 5), classes=3)

    def weights(self, rounds=1, **options):
        algorithm = hw.recipes.quality(**options)
        run = hw.Run(algorithm, self.data, linear_task(dtype="float64"), rounds=rounds)
        reports = list(run)
        return {c.client: c.metrics["weight"] for c in reports[-1].clients}, run

    def test_by_entropy(self):
        found, _ = self.weights(by="entropy", floor=0.1)
        for client in self.data.clients:
            labels = self.data.train_of(client).targets.tolist()
            shares = [labels.count(k) / len(labels) for k in range(3)]
            entropy = -sum(p * log(p) for p in shares if p) / log(3)
            assert found[client] == pytest.approx(len(labels) * (0.1 + 0.9 * entropy), rel=1e-12)
        assert len(set(found.values())) == 3

    def test_by_validation_with_examples_that_are_never_trained_on(self):
        trainer = hw.LocalSGD(lr=0.1, validation=0.3)
        found, run = self.weights(by="validation", floor=0.1, temperature=2.0, trainer=trainer)
        for client in self.data.clients:
            examples = run.data.train_of(client)
            order = hw.numerics.keys.Key.root(0).derive("held out").permutation(len(examples))
            held = order[: int(0.3 * len(examples))]
            start = hw.Run(run.algorithm, self.data, run.task, rounds=1).model()
            with torch.no_grad():
                loss = torch.nn.functional.cross_entropy(start(examples.inputs[held]), examples.targets[held])
            assert found[client] == pytest.approx(len(examples) * (0.1 + 0.9 * exp(-float(loss) / 2)), rel=1e-9)

    def test_a_client_with_one_example_validates_on_that(self):
        data = blobs(sizes=(1, 6))
        trainer = hw.LocalSGD(validation=0.3)
        made = hw.Run(hw.recipes.quality(by="validation", trainer=trainer), data, linear_task(), rounds=1)
        start, only = made.model(), data.train_of("client-0")
        (report,) = made
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(start(only.inputs), only.targets)
        assert report.clients[0].metrics["weight"] == pytest.approx(0.1 + 0.9 * exp(-float(loss)), rel=1e-6)

    def test_is_visible_in_the_journal(self, tmp_path):
        run = hw.Run(hw.recipes.quality(), self.data, linear_task(), rounds=2, folder=tmp_path / "run")
        reports = list(run)
        run.close()
        journal = hw.observe.journal.Journal(tmp_path / "run" / "journal.sqlite")
        client = reports[-1].clients[0]
        assert journal.series(f"client:{client.client}", "weight")[-1] == (2, client.metrics["weight"])
        journal.close()

    def test_is_explained(self):
        said = str(hw.recipes.quality(by="entropy").explain())
        assert "in the clear: number of examples, training loss, label entropy." in said
        assert "asked of the trainer: label entropy" in said
