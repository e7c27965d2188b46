"""Secure sums of buckets: each the plain sum of its own clients, whatever is lost or poisoned; and a rule over them."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_parties import PHASES, Parties, flipped, names_of
from toys import blobs, linear_task, weights_and_reports

import headway as hw
from headway.core.errors import ChainRefused
from headway.core.flow import Flow, SamplerFacts
from headway.core.sampler import Sampler
from headway.engines.wire_engine import WireEngine
from headway.protocol.messages import Exchange, Train
from headway.stages.secure_aggregation.bucket_sums import buckets_of
from headway.stages.secure_aggregation.transcript import to_tensor

STAGE = hw.SecureSum(buckets=4, min_cohort=3, min_survivors=2)
RULES = STAGE.rules


def parties(count=15, **options):
    return Parties(options.pop("stage", STAGE), count=count, **{"rule": hw.Median(1), "size": 5, **options})


def buckets(made: Parties):
    made_by = made.ctx.key.derive("SecureSum", "buckets")
    return buckets_of(made.names, made.stage.buckets, made_by)


@st.composite
def rounds(draw):
    count = draw(st.integers(12, 18))
    gone = draw(st.lists(st.sampled_from(names_of(count)), unique=True, max_size=6))
    lost: dict[str, set[str]] = {}
    for name in gone:
        lost.setdefault(draw(st.sampled_from(PHASES)), set()).add(name)
    return parties(count, lost=lost, bits=draw(st.integers(2, 20)), seed=draw(st.integers(0, 99)))


@settings(max_examples=6, deadline=None)
@given(rounds())
def test_each_sum_is_the_plain_sum_of_its_survivors_or_missing(made):
    answer, before = made.run(), set().union(*(made.lost.get(phase, set()) for phase in PHASES[:3]))
    gone, wanted, counted = set().union(*made.lost.values()), {}, []
    for name, clients in buckets(made).items():
        if len(set(clients) - gone) >= RULES.needed(len(clients)):
            survivors = [client for client in clients if client not in before]
            wanted[name], counted = made.plain(survivors), [*counted, *survivors]
    if len(wanted) < 3:  # Median(1)
        assert (answer.total.rows, answer.total.count, answer.counted) == ({}, 0, ())
        assert any("no secure sum" in note for note in answer.notes)
        return
    assert answer.total.rows.keys() == wanted.keys()
    for name, row in answer.total.rows.items():
        assert torch.equal(row.vectors["delta"], wanted[name])
    assert sorted(answer.counted) == sorted(counted)
    assert answer.total.count == len(counted) == answer.total.weight.value()
    assert len(answer.notes) == 4 - len(wanted)


@pytest.mark.parametrize("mode", ["real", "ideal"])
def test_the_aggregate_is_the_rule_over_the_means_of_the_buckets(mode):
    made = parties(stage=replace(STAGE, mode=mode), lost={"train": {"c003"}})
    answer = made.run()
    found, _ = made.links.aggregate(answer.total, {}, made.ctx, made.flows)
    means = []
    for clients in buckets(made).values():
        members = [client for client in clients if client != "c003"]
        reals = made.plain(members).double() / (2 ** (made.bits - 1) - 1)  # Clip(1.0): an integer of 1 stands for this
        means.append((reals / len(members)).float())
    assert torch.equal(found.delta.float(), torch.stack(means).sort(0).values[1:3].double().mean(0).float())
    assert float(found.sums["clients"]) == 14


def test_a_poisoned_client_changes_the_sum_of_its_own_bucket_alone():
    honest, other = parties(), parties()
    other.codes["c007"] = torch.full((5,), 127)
    before, after = honest.run(), other.run()
    changed = [
        n
        for n, row in before.total.rows.items()
        if not torch.equal(row.vectors["delta"], after.total.rows[n].vectors["delta"])
    ]
    assert changed == [name for name, clients in buckets(honest).items() if "c007" in clients]


def test_a_client_that_counts_twice_loses_its_own_bucket_alone(monkeypatch):
    made = parties(stage=replace(STAGE, mode="ideal"))
    true = made.train

    def train(name, request):
        update = true(name, request)
        twice = {**update.vectors, "numbers": update.vectors["numbers"] + (1 if name == "c002" else 0)}
        return replace(update, vectors=twice)

    made.train = train
    answer = made.run()
    lost = next(name for name, clients in buckets(made).items() if "c002" in clients)
    assert answer.total.rows.keys() == buckets(made).keys() - {lost}
    assert not set(answer.counted) & set(buckets(made)[lost])
    assert any(f"{lost} of 4 has no secure sum: the masks do not cancel" in note for note in answer.notes)


def test_a_sum_has_no_more_bits_than_its_own_clients_need():
    whole, part = Parties(count=16), parties(16)
    assert whole.flows[3].spec("delta").bits == (2 * 16 * 127).bit_length()
    assert part.flows[3].spec("delta").bits == (2 * 4 * 127).bit_length()
    made = parties(16)
    made.codes = {name: torch.full((5,), -127) for name in made.names}
    assert {row.vectors["delta"].tolist()[0] for row in made.run().total.rows.values()} == {-4 * 127}


def test_buckets_are_drawn_anew_in_each_round_and_alike_in_each_attempt():
    made = parties()
    made.run()
    first, again = buckets(made), buckets(made)
    other = buckets_of(made.names, 4, made.ctx.key.derive("another round"))
    assert first == again != other
    assert sorted(name for clients in first.values() for name in clients) == list(made.names)
    assert {len(clients) for clients in first.values()} == {3, 4}


# a hostile server ---------------------------------------------------------------------------------------------


def hostile(change, **options):
    """The round whose requests a server changes, and the names of the clients of the first bucket."""
    made = parties(**options)
    made.change = lambda client, request: change(made, client, request)
    return made, made.run()


def test_a_client_with_another_list_of_its_bucket_costs_that_bucket_alone():
    def change(made, client, request):
        if client == "c000" and isinstance(request, Train):
            lists = {name: flipped(each, 3) for name, each in request.message.stages["SecureSum"].items()}
            return replace(request, message=replace(request.message, stages={"SecureSum": lists}))
        return request

    made, answer = hostile(change, count=16)
    own = next(name for name, clients in buckets(made).items() if "c000" in clients)
    assert buckets(made)[own].index("c000") != 3
    assert answer.total.rows.keys() == buckets(made).keys() - {own}
    for name, row in answer.total.rows.items():
        assert torch.equal(row.vectors["delta"], made.plain(buckets(made)[name]))


def test_a_bucket_below_the_smallest_cohort_is_refused_by_its_clients():
    def change(made, client, request):
        if isinstance(request, Exchange) and request.name == "advertise":
            names = json.loads(bytes(request.private["names"].tolist()))
            few = sorted({client, *names[:1], *names[-1:]})[:2]
            return replace(request, private={"names": to_tensor(json.dumps(few).encode())})
        return request

    made, answer = hostile(change)
    assert all("at least 3 clients" in reason for reason in made.refusals.values())
    assert len(made.refusals) == 15
    assert not answer.total.rows


def test_a_client_is_in_one_bucket():
    """A second request for keys of one round, for another group of clients, is refused."""
    made = parties()
    made.run()
    again = Exchange(
        made.asked[0].message, 0, 0, {"names": to_tensor(json.dumps(["c000", "c001", "c002"]).encode())}, "advertise"
    )
    with pytest.raises(hw.HeadwayError, match="are made once"):
        made.exchange("c000", again)


def test_a_request_to_train_without_the_list_of_the_own_bucket_is_refused():
    def change(made, client, request):
        if client == "c001" and isinstance(request, Train):
            return replace(request, message=replace(request.message, stages={"SecureSum": {}}))
        return request

    made, _ = hostile(change)
    assert "no list of the clients" in made.refusals["c001"]


# engines ------------------------------------------------------------------------------------------------------

DATA, TASK = blobs(tuple(range(5, 17))), linear_task(dtype="float64")
ENGINES = {
    "lanes": lambda: hw.LocalEngine(lanes=4),
    "processes": lambda: hw.ProcessEngine(2, lanes=2),
    "wire": WireEngine,
    "clock": lambda: hw.ClockEngine(hw.LocalEngine(), hw.DeviceFleet()),
}


def final(engine, mode="real", rule=None, rounds=2):
    stage = hw.SecureSum(buckets=4, min_cohort=3, min_survivors=2, mode=mode)
    chain = hw.chain(hw.Clip(1.0), hw.Quantize(16), stage, rule or hw.NNM(1, hw.TrimmedMean(1)))
    run = hw.Run(
        hw.Algorithm(chain, hw.LocalSGD(lr=0.1), hw.All()),
        DATA,
        TASK,
        rounds=rounds,
        seed=3,
        engine=engine,
        evaluate_every=None,
    )
    return weights_and_reports(run)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_and_mode_ends_with_the_same_bits(engine):
    wanted, _ = final(hw.LocalEngine(), "ideal")
    found, reports = final(ENGINES[engine]())
    assert torch.equal(found, wanted)
    assert [report.count("counted") for report in reports] == [12, 12]
    for row in (row for report in reports for row in report.clients):
        assert (row.examples, row.norm) == (0, None)


def test_clients_are_lost_by_the_clock_and_the_round_goes_on_with_the_other_buckets():
    fleet = hw.DeviceFleet(examples_per_s=10.0, latency_s=0.1, crash=0.04)
    _, reports = final(hw.ClockEngine(hw.LocalEngine(), fleet), rule=hw.Median(1), rounds=12)
    partly = [report for report in reports if any("of 4 has no secure sum" in note for note in report.notes)]
    assert any(0 < report.count("counted") < 12 for report in partly)
    for report in partly:
        assert any("has no secure sum" in row.reason for row in report.clients if row.status == "dropped")


# facts and refusals -------------------------------------------------------------------------------------------

FRONT = (hw.Clip(1.0), hw.Quantize(16))


def flow(*links, sampler: Sampler | None = None):
    made = hw.Algorithm(hw.chain(*links), hw.LocalSGD(), sampler or hw.Uniform(20))
    return made.flows(population=100)[-1]


def test_what_the_server_sees_is_in_the_facts_and_the_explanation():
    made = hw.Algorithm(hw.chain(*FRONT, hw.SecureSum(buckets=4), hw.Median(1)), hw.LocalSGD(), hw.Uniform(20))
    last = made.flows()[-1]
    assert (last.server_sees, last.buckets, last.attackers, last.min_updates) == ("bucket sums", 4, 1, 3)
    assert (last.exposed, last.fewest, last.min_cohort) == ((), 4, 20)
    assert "the sums of 4 buckets" in str(made.explain())
    assert made.protected


REFUSED = {
    "attackers that may spoil half the sums": (
        (*FRONT, hw.SecureSum(buckets=4), hw.Median(2)),
        "4 buckets",
        "SecureSum",
    ),
    "a rule that needs more": ((*FRONT, hw.SecureSum(buckets=4), hw.Krum(1)), "4 buckets", "SecureSum"),
    "mixed neighbours that need more": (
        (*FRONT, hw.SecureSum(buckets=4), hw.NNM(1, hw.Krum(1))),
        "4 buckets",
        "SecureSum",
    ),
    "a mean of sums": ((*FRONT, hw.SecureSum(buckets=4), hw.Mean("clients")), "only a robust rule", "SecureSum"),
    "the root's own update": ((*FRONT, hw.SecureSum(buckets=4), hw.FLTrust("c000")), "4 buckets", "SecureSum"),
    "central noise": ((*FRONT, hw.SecureSum(buckets=4), hw.Median(1), hw.GaussianNoise(1.0)), "Median", "Median"),
    "weights": ((hw.Weigh("capped", 5), *FRONT, hw.SecureSum(buckets=4), hw.Median(1)), "Weigh", "Weigh"),
    "no integers": ((hw.Clip(1.0), hw.SecureSum(buckets=4), hw.Median(1)), "real numbers", ""),
    "noise of more shares than a bucket has": (
        (*FRONT, hw.Skellam(1.0, survivors=16), hw.SecureSum(buckets=4), hw.Median(1)),
        "sums of 4 clients",
        "Skellam",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_chains_that_hide_nothing_or_withstand_nobody_are_refused(name):
    links, found, cause = REFUSED[name]
    sampler = hw.All() if name.startswith("the root") else hw.Uniform(20)
    with pytest.raises(ChainRefused) as refused:
        flow(*links, sampler=sampler)
    assert found in refused.value.found
    assert cause in refused.value.caused_by


def test_a_cohort_with_fewer_clients_than_the_buckets_need_is_refused_or_ends_the_round():
    with pytest.raises(ChainRefused, match="at least 20"):
        flow(*FRONT, hw.SecureSum(buckets=4), hw.Median(1), sampler=hw.Uniform(19))
    made = parties(12)
    made.names = made.names[:11]
    answer = made.run()
    assert answer.total.count == 0
    assert "11 clients were asked, and 4 buckets have at least 3 each" in answer.notes[0]


def test_a_quorum_that_ends_rounds_before_enough_clients_remain_is_refused():
    made = hw.Algorithm(hw.chain(*FRONT, STAGE, hw.Median(1)), hw.LocalSGD(lr=0.1), hw.All(), hw.Quorum(count=8))
    run = hw.Run(made, DATA, TASK, rounds=1, engine=hw.ClockEngine(hw.LocalEngine(), hw.DeviceFleet()))
    with pytest.raises(ChainRefused, match="at least 12 updates"):
        list(run)
    run.close()


def test_noise_is_that_of_the_shares_in_one_bucket_and_no_draw_amplifies_it():
    links = hw.chain(*FRONT, hw.Skellam(1.0, survivors=4), hw.SecureSum(buckets=4), hw.Median(1))
    start = Flow(sampler=SamplerFacts("poisson", 40.0, 100, 0.4, 60), size=10)
    flows = links.trace(start)
    (event,) = flows[-1].events
    assert flows[-1].sampler.rate is None
    assert event.details["buckets"] == 4
    assert event.details["variance"] == 4 * flows[-1].noise_variance
    assert STAGE.rules_in(flows[-1]).min_survivors == 4
    with pytest.raises(ChainRefused, match="min_survivors"):
        hw.chain(*FRONT, hw.Skellam(1.0, survivors=5), hw.SecureSum(buckets=4), hw.Median(1))


def test_a_bucket_without_the_shares_of_noise_is_never_unmasked():
    made = parties(16, stage=replace(STAGE, min_cohort=4, threshold=0.65), lost={"train": {"c000"}})
    made.flows = tuple(replace(flow, survivors=4) for flow in made.flows)
    answer = made.run()
    lost = next(name for name, clients in buckets(made).items() if "c000" in clients)
    assert answer.total.rows.keys() == buckets(made).keys() - {lost}
    unmasked = {client for ask in made.asked if getattr(ask.request, "name", "") == "unmask" for client in ask.cohort}
    assert not unmasked & set(buckets(made)[lost])
