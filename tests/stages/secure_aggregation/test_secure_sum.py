"""The secure sum: equal to the plain sum of integers whatever is lost, in every engine; and its refusals."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conformance.teststages import FixedPoint, Median, NoisyRelease
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_parties import PHASES, Parties, names_of
from toys import blobs, linear_task

import headway as hw
from headway.core.errors import ChainRefused, ConfigError, ExchangeRefused
from headway.core.flow import Flow, SamplerFacts
from headway.engines.wire_engine import WireEngine
from headway.federation.job_facts import NETWORK
from headway.numerics.ring import MOST_BITS
from headway.protocol.messages import Exchange, Message
from headway.protocol.quorum import Quorum
from headway.stages.secure_aggregation.transcript import Cohort

APART = hw.Clip(1.0, others=1.0)  # the control change on a scale of its own
TEN = (7, 12, 5, 9, 11, 6, 8, 4, 10, 9)


@st.composite
def rounds(draw):
    count = draw(st.integers(5, 14))
    names = names_of(count)
    spare = count - hw.SecureSum().rules.needed(count)
    gone = draw(st.lists(st.sampled_from(names), unique=True, max_size=spare + 1))
    lost: dict[str, set[str]] = {}
    for name in gone:
        lost.setdefault(draw(st.sampled_from(PHASES)), set()).add(name)
    cap = draw(st.sampled_from([1, 7, 1000]))
    weights = {name: draw(st.floats(0, cap, width=32)) for name in names}
    size, bits = draw(st.integers(1, 9)), draw(st.integers(2, 32))
    return Parties(
        count=count, size=size, bits=bits, cap=cap, lost=lost, weights=weights, seed=draw(st.integers(0, 99))
    )


@settings(max_examples=25, deadline=None)
@given(rounds())
def test_the_sum_is_the_plain_sum_of_the_survivors_or_nothing(parties):
    answer, needed = parties.run(), parties.stage.rules.needed(parties.count)
    gone = set().union(*parties.lost.values())
    before = set().union(*(parties.lost.get(phase, set()) for phase in PHASES[:3]))
    if parties.count - len(gone) < needed:
        assert answer.total.count == 0
        assert not answer.total.integers
        assert answer.notes
        assert not answer.counted
        return
    survivors = [name for name in parties.names if name not in before]
    assert torch.equal(answer.total.integers["delta"], parties.plain(survivors))
    assert answer.total.count == len(survivors)
    exact = sum(round(parties.weight(name) * 2**30) for name in survivors) / 2**30
    assert answer.total.weight.value() == exact
    assert not answer.notes


def test_a_large_cohort_shares_masks_with_neighbours_alone():
    parties = Parties(
        count=70, size=3, lost={"train": {"c001", "c030", "c069"}, "confirm": {"c002"}, "share": {"c003"}}
    )
    answer = parties.run()
    survivors = [name for name in parties.names if name not in {"c001", "c030", "c069", "c003"}]
    assert torch.equal(answer.total.integers["delta"], parties.plain(survivors))
    degree = parties.replies["share"]["c000"]["shares"].shape[0]
    assert degree < 69
    assert parties.replies["unmask"]["c000"]["shares"].shape[0] <= degree + 1


@pytest.mark.parametrize("cipher", ["aes", "chacha20"])
@pytest.mark.parametrize("mode", ["real", "ideal"])
def test_every_mode_and_cipher_gives_the_same_sum(mode, cipher):
    parties = Parties(hw.SecureSum(mode=mode, cipher=cipher), count=9, cap=10, lost={"train": {"c004"}})
    answer, plain = parties.run(), Parties(count=9)
    assert torch.equal(answer.total.integers["delta"], plain.plain([name for name in plain.names if name != "c004"]))
    assert (answer.total.count, answer.total.weight.value()) == (8, 80.0)


@pytest.mark.parametrize("asked", [4, 5, 6, 7])
def test_ideal_rounds_end_as_real_ones_do(asked):
    for lost in range(asked):
        ends = []
        for mode in ("real", "ideal"):
            stage = hw.SecureSum(mode=mode, min_cohort=5, min_survivors=4)
            parties = Parties(replace(stage, min_cohort=3, min_survivors=2), count=asked)
            parties.stage, parties.lost = stage, {"train": {f"c{place:03d}" for place in range(lost)}}
            answer = parties.run()
            ends.append((answer.total.count, {name: vector.tolist() for name, vector in answer.total.integers.items()}))
        assert ends[0] == ends[1]


# what the server sees ----------------------------------------------------------------------------------------


def chi_squared(values: np.ndarray, classes: int) -> float:
    """Standard deviations from the mean of the chi-squared statistic of uniform numbers in [0, classes)."""
    counts, expected = np.bincount(values, minlength=classes), len(values) / classes
    return float((((counts - expected) ** 2 / expected).sum() - (classes - 1)) / (2 * (classes - 1)) ** 0.5)


def test_a_masked_vector_is_uniform_whatever_is_behind_it():
    parties = Parties(count=6, size=40_000, bits=8)
    parties.codes = {name: torch.full((40_000,), 127) for name in parties.names}
    parties.run()
    bits = parties.flows[3].spec("delta").bits
    assert bits == 11
    for name in parties.names:
        sent = parties.sent[name].vectors["delta"].numpy()
        assert 0 <= sent.min() <= sent.max() < 1 << bits
        assert abs(chi_squared(sent >> 3, 256)) < 6
        assert abs(chi_squared(sent & 255, 256)) < 6
        assert abs(chi_squared((sent[1:] - sent[:-1]) % 256, 256)) < 6
    one, other = (parties.sent[name].vectors["delta"].double() for name in parties.names[:2])
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 6 / 200


def test_no_proper_part_of_a_cohort_adds_up_to_its_sum():
    parties = Parties(count=6, size=50)
    parties.run()
    modulus = 1 << parties.flows[3].spec("delta").bits
    for left_out in parties.names:
        some = [name for name in parties.names if name != left_out]
        total = sum(parties.sent[name].vectors["delta"] for name in some) % modulus
        assert not torch.equal(total, parties.plain(some) % modulus)


def test_the_weight_and_the_count_are_masked_too():
    parties = Parties(count=6, cap=1000, weights={"c000": 17.0})
    parties.run()
    assert all(not bool(update.weight) and not update.sums for update in parties.sent.values())
    ideal = Parties(hw.SecureSum(mode="ideal"), count=6, cap=1000, weights={"c000": 17.0})
    ideal.run()
    masked, open_ = parties.sent["c000"].vectors["numbers"], ideal.sent["c000"].vectors["numbers"]
    assert open_[0] == 1
    assert not torch.equal(masked, open_)


# overflow ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sum_does_not_overflow(sign):
    parties = Parties(count=7, size=5, bits=6, cap=3)
    largest = 31
    parties.codes = {name: torch.full((5,), sign * largest) for name in parties.names}
    assert parties.flows[3].spec("delta").bits == (2 * 7 * largest).bit_length()
    assert parties.run().total.integers["delta"].tolist() == [sign * 7 * largest] * 5


def test_one_bit_less_would_overflow():
    bits = Parties(count=7, bits=6).flows[3].spec("delta").bits
    assert 1 << (bits - 1) <= 2 * 7 * 31


@pytest.mark.parametrize("buckets", [1, 4])
@pytest.mark.parametrize(("rate", "population"), [(0.5, 256), (0.2, 1000), (0.9, 20), (0.01, 100_000)])
def test_the_modulus_has_room_for_more_clients_than_independent_draws_have_on_average(rate, population, buckets):
    stage = hw.SecureSum(min_cohort=3, min_survivors=2, buckets=buckets)
    links = hw.chain(hw.Clip(), hw.Quantize(16), stage, hw.Median(1) if buckets > 1 else hw.Mean("expected"))
    flows = links.trace(Flow(sampler=hw.Poisson(rate=rate).facts(population), size=3))
    room = (((1 << flows[-1].spec("delta").bits) - 1) // 2 // (2**15 - 1)) * buckets
    log_odds, beyond = math.log(rate) - math.log1p(-rate), 0.0
    for count in range(room + 1, population + 1):
        ways = math.lgamma(population + 1) - math.lgamma(count + 1) - math.lgamma(population - count + 1)
        beyond += math.exp(ways + count * log_odds + population * math.log1p(-rate))
    assert beyond <= 2.0**-59
    for flow in flows[1:]:  # before the mask and behind it
        assert stage.rules_in(flow).most * buckets <= room + buckets - 1


@pytest.mark.parametrize("mode", ["real", "ideal"])
def test_a_round_of_more_clients_than_the_modulus_has_room_for_has_no_sum(mode):
    parties = Parties(hw.SecureSum(mode=mode), count=7)
    facts = SamplerFacts("rotating", 6.0, 7)
    parties.flows = parties.links.trace(Flow(sampler=facts, size=parties.size))
    answer = parties.run()
    assert answer.total.count == 0
    assert "7 clients were asked, and the sum of more than 6 may be larger than its modulus" in answer.notes[0]
    assert not parties.asked


def test_a_client_makes_no_keys_for_more_clients_than_the_modulus_has_room_for():
    parties = Parties(count=7)
    room = parties.links.trace(Flow(sampler=SamplerFacts("rotating", 6.0, 7), size=parties.size))[-1]
    sent = Message(torch.empty(0), {"SecureSum": {"names": Cohort(parties.names, None).to_tensor()}})
    request = Exchange(sent, name="advertise")
    with pytest.raises(ExchangeRefused, match="a cohort of 7 was asked, and the sum of more than 6"):
        parties.stage.answer(request, {}, parties.facts("c000", request, flow=room))


def test_a_modulus_beyond_62_bits_is_refused():
    with pytest.raises(ConfigError, match=f"{MOST_BITS} bits"):
        hw.chain(hw.Clip(), hw.Quantize(32), hw.SecureSum(), hw.Mean("clients")).trace(
            Flow(sampler=SamplerFacts("all", 2.0**31, 2**31), size=3)
        )


@pytest.mark.parametrize("weight", [1000.1, math.nan, math.inf])
def test_a_weight_above_its_limit_is_never_sent(weight):
    parties = Parties(count=6, cap=1000, weights={"c000": weight})
    with pytest.raises(ConfigError, match="'weight' must be at most 1000"):
        parties.run()


# engines -----------------------------------------------------------------------------------------------------


def final(engine, *stages, clients=TEN, rounds=2, sampler=None, **trainer):
    algorithm = hw.Algorithm(hw.chain(*stages), hw.LocalSGD(lr=0.1, **trainer), sampler or hw.All())
    run = hw.Run(algorithm, blobs(sizes=clients), linear_task(), rounds=rounds, seed=3, engine=engine)
    reports = list(run)
    run.close()
    return run.state, reports


@pytest.mark.parametrize(
    "stages",
    [
        lambda *secure: (hw.Clip(1.0), hw.Quantize(16), *secure, hw.Mean("clients")),
        lambda *secure: (hw.Weigh("capped", cap=9), hw.Clip(1.0), hw.Quantize(12), *secure, hw.Mean()),
        lambda *secure: (
            hw.Scaffold(),
            hw.Clip(1.0, others=1.0),
            hw.Quantize(20),
            *secure,
            hw.Mean("clients"),
            hw.ServerAdam(),
        ),
        lambda *secure: (hw.ECGR(), hw.Clip(1.0), hw.Quantize(8), *secure, hw.Mean("expected")),
    ],
    ids=["mean", "weights", "scaffold and adam", "ecgr"],
)
def test_every_engine_and_mode_ends_with_the_same_bits(stages):
    wanted, _ = final(hw.LocalEngine(drift=False), *stages(hw.SecureSum(mode="ideal")))
    for engine in (hw.LocalEngine(drift=False), WireEngine()):
        found, reports = final(engine, *stages(hw.SecureSum()))
        assert torch.equal(found.params, wanted.params)
        assert all(report.count("counted") == 10 for report in reports)
    sent, _ = final(WireEngine(), *stages(hw.SecureSum(mode="ideal")))
    assert torch.equal(sent.params, wanted.params)


@pytest.mark.parametrize(
    "engine",
    [
        lambda: hw.LocalEngine(lanes=5, drift=False),
        lambda: hw.ProcessEngine(2, lanes=2),
        lambda: hw.ClockEngine(hw.LocalEngine(), hw.DeviceFleet()),
    ],
    ids=["lanes", "processes", "clock"],
)
def test_the_ideal_sum_is_on_every_engine_the_same(engine):
    stages = (hw.Weigh("capped", cap=9), hw.Clip(1.0), hw.Quantize(12), hw.SecureSum(mode="ideal"), hw.Mean())
    wanted, _ = final(hw.LocalEngine(drift=False), *stages)
    found, _ = final(engine(), *stages)
    torch.testing.assert_close(found.params, wanted.params, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mode", ["real", "ideal"])
def test_noise_that_needs_more_survivors_raises_the_threshold(mode):
    """Nothing is unmasked below it: the clients sign no shorter list."""
    for lost, counted in (({"c000"}, 9), ({"c000", "c001"}, 0)):
        parties = Parties(hw.SecureSum(mode=mode), count=10, lost={"train": lost})
        parties.flows = tuple(replace(flow, min_updates=9) for flow in parties.flows)
        assert parties.run().total.count == counted
        assert "unmask" not in parties.replies or counted


def test_it_is_the_mean_of_the_quantised_updates():
    stages = (hw.Clip(1.0), hw.Quantize(16), hw.Mean("clients"))
    secure, _ = final(hw.LocalEngine(), *stages[:2], hw.SecureSum(), stages[2])
    plain, _ = final(hw.LocalEngine(), *stages)
    torch.testing.assert_close(secure.params, plain.params, rtol=0, atol=1e-4)


def test_no_report_names_a_clients_numbers():
    _, reports = final(WireEngine(), hw.Clip(), hw.Quantize(), hw.SecureSum(), hw.Mean("clients"))
    for report in reports:
        for client in report.clients:
            assert (client.examples, client.steps, client.norm, dict(client.metrics)) == (0, 0, None, {})


# refusals ----------------------------------------------------------------------------------------------------

SECURE = (hw.Clip(), hw.Quantize(), hw.SecureSum())
REFUSED = {
    "a robust rule": (lambda: hw.chain(*SECURE, Median()), "only their sum", "SecureSum"),
    "real numbers": (lambda: hw.chain(hw.Clip(), hw.SecureSum(), hw.Mean("clients")), "real numbers", "SecureSum"),
    "no clip": (lambda: hw.chain(hw.Quantize(), hw.SecureSum(), hw.Mean("clients")), "none", "Quantize"),
    "integers without a largest value": (
        lambda: hw.chain(hw.Clip(), FixedPoint(), hw.SecureSum(), hw.Mean("clients")),
        "which have none",
        "FixedPoint",
    ),
    "weights without a limit": (lambda: hw.chain(*SECURE, hw.Mean()), "weights by number of examples", "Mean"),
    "weights by label entropy": (
        lambda: hw.chain(hw.WeighByQuality("entropy", cap=2.0), *SECURE, hw.Mean()),
        "entropy",
        "WeighByQuality",
    ),
    "staleness": (lambda: hw.chain(hw.Staleness(), *SECURE, hw.Mean("clients")), "", ""),
    "a mask before the quantiser": (
        lambda: hw.chain(hw.Clip(), hw.SecureSum(), hw.Quantize(), hw.Mean("clients")),
        "",
        "Quantize",
    ),
    "late updates": (
        lambda: hw.Algorithm(
            hw.chain(*SECURE, hw.Mean("clients")), hw.LocalSGD(), hw.Uniform(count=9), Quorum(5, late="keep")
        ),
        "updates of any age",
        'Quorum(late="keep")',
    ),
    "a small cohort": (
        lambda: hw.Algorithm(hw.chain(*SECURE, hw.Mean("clients")), hw.LocalSGD(), hw.Uniform(count=4)),
        "cohorts of 4",
        "Uniform",
    ),
    "a sampler by losses": (
        lambda: hw.Algorithm(hw.chain(*SECURE, hw.Mean("clients")), hw.LocalSGD(), hw.Oort(count=9)),
        "a server that sees only sums",
        "SecureSum",
    ),
    "AFL": (lambda: hw.chain(*SECURE, hw.AFL()), "", ""),
    "no masks between real machines": (
        lambda: hw.Algorithm(
            hw.chain(hw.Clip(), hw.Quantize(), hw.SecureSum(mode="ideal"), hw.Mean("clients")), hw.LocalSGD(), hw.All()
        ).flows(NETWORK, population=9),
        "machines of their own",
        "Network",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_chain_that_hides_nothing_or_adds_nothing_is_refused(name):
    made, found, cause = REFUSED[name]
    with pytest.raises(ChainRefused) as refused:
        made()
    error = refused.value
    assert found in error.found
    assert cause in error.caused_by
    assert error.needed
    assert error.do_this


@pytest.mark.parametrize(
    "fields",
    [
        {"threshold": 0.5},
        {"threshold": 0.55},
        {"threshold": 0.7, "corrupt": 0.4},
        {"min_survivors": 6},
        {"min_cohort": 2},
    ],
)
def test_numbers_with_which_two_lists_of_survivors_could_be_signed_are_refused(fields):
    with pytest.raises(ConfigError, match="SecureSum"):
        hw.SecureSum(**fields)


@pytest.mark.parametrize(
    "stages",
    [
        (hw.FedProx(), *SECURE, hw.Mean("clients")),
        (hw.Scaffold(), APART, *SECURE[1:], hw.Mean("clients")),
        (hw.ECGR(), *SECURE, hw.Mean("clients"), hw.ServerAdam()),
        (hw.WeighByQuality("alignment", cap=2.0), *SECURE, hw.Mean()),
        (hw.Weigh("uniform"), *SECURE, hw.Mean("expected"), NoisyRelease()),
        (*SECURE, hw.Mean("expected"), hw.GaussianNoise(1.0)),
    ],
    ids=["fedprox", "scaffold", "ecgr", "quality", "noise", "gaussian noise"],
)
def test_chains_that_compose(stages):
    links = hw.chain(*stages)
    last = links.trace(Flow(sampler=SamplerFacts("all", 10.0, 10), size=4))[-1]
    assert (last.server_sees, last.exposed, last.number) == ("sum", (), "ring")
    assert any("nobody can check whether a client has clipped" in warning for warning in last.warnings)
    noisy = any(isinstance(stage, hw.GaussianNoise) for stage in stages)
    assert noisy == any("the server sees the sum before the noise" in warning for warning in last.warnings)
    assert hw.Algorithm(links, hw.LocalSGD(), hw.All()).protected


@pytest.mark.parametrize("mode", ["real", "ideal"])
def test_a_round_without_a_sum_changes_nothing_and_says_why(mode):
    """Most clients are stragglers whose work is dropped, after the others have sent their masked vectors."""
    stages = (hw.Scaffold(), APART, hw.Quantize(), hw.SecureSum(mode=mode), hw.Mean("clients"))
    algorithm = hw.Algorithm(
        hw.chain(*stages), hw.LocalSGD(lr=0.1, epochs=2, stragglers=0.6, straggler_policy="drop"), hw.All()
    )
    run = hw.Run(algorithm, blobs(sizes=TEN), linear_task(), rounds=2, seed=3, engine=hw.LocalEngine(drift=False))
    start = run.state.params.clone()
    for report in run:
        assert report.count("counted") == 0
        assert report.count("dropped") == 10
        assert any("the round has no secure sum" in note and "7 must remain" in note for note in report.notes)
        assert all("no secure sum" in client.reason or "straggler" in client.reason for client in report.clients)
    assert torch.equal(run.state.params, start)
    assert all(run.memory.get(client) is None for client in run.data.clients)
    run.close()
