"""Shares of noise behind a secure sum: how much there is of it, what the ledger reads of it, and when it is refused."""

import math
from dataclasses import replace

import pytest
import torch
from conformance.cases import case
from toys import blobs, linear_task

import headway as hw
from headway.core.errors import ConfigError
from headway.core.update import Update
from headway.engines.wire_engine import WireEngine
from headway.numerics.keys import Key
from headway.numerics.ring import noise_tail
from headway.numerics.rounding import rounded_norm
from headway.privacy.account_book import AccountBook
from headway.privacy.renyi import plain_divergence
from headway.privacy.spends import Spend
from headway.privacy.terms import PrivacyTerms
from headway.stages import Clip, Mean, Quantize, SecureSum, Skellam, Weigh

KEY = Key.root(23)
SUM = SecureSum(mode="ideal")
CLIENTS, SIZE = 8, 40


def flows_of(*stages, size=SIZE):
    algorithm = hw.Algorithm(hw.chain(*stages), hw.LocalSGD(lr=0.1), hw.All())
    return dict(zip(algorithm.chain.labels, algorithm.flows(None, CLIENTS, size), strict=True))


def private(multiplier=1.5, survivors=4, bits=12, rotate=False, clip=2.0):
    return (Clip(clip), Quantize(bits, rotate), Skellam(multiplier, survivors), SUM, Mean("expected"))


def test_the_event_holds_sensitivities_and_variance_in_integers():
    flows = flows_of(*private())
    (event,) = flows["Mean"].events
    l2 = rounded_norm(2047, SIZE)
    assert (event.mechanism, event.relation, event.at, event.covers) == (
        "skellam",
        "zero_out",
        "distributed",
        ("delta",),
    )
    assert event.noise_multiplier == 1.5
    assert event.sensitivity == pytest.approx(l2 * 2.0 / 2047)
    assert event.details == pytest.approx({"l2": l2, "l1": l2 * math.sqrt(SIZE), "variance": (1.5 * l2) ** 2})
    assert flows["Skellam"].noise_variance == pytest.approx((1.5 * l2) ** 2 / 4)
    assert (flows["Skellam"].survivors, flows["Mean"].min_updates) == (4, 4)


@pytest.mark.parametrize(
    "stages", [private(), (Clip(2.0), hw.LocalGaussian(2.0), Mean("expected"))], ids=["shares", "local noise"]
)
def test_with_noise_of_clients_the_server_s_own_hides_what_a_client_says_and_no_draw_amplifies_it(stages):
    algorithm = hw.Algorithm(hw.chain(*stages, hw.GaussianNoise(3.0)), hw.LocalSGD(lr=0.1), hw.Poisson(rate=0.9))
    flows = algorithm.flows(None, CLIENTS, SIZE)
    assert {event.relation for event in flows[-1].events} == {"zero_out"}
    terms = PrivacyTerms.of(algorithm, flows, hw.PrivacyOptions())
    book = AccountBook()
    book.add(flows[-1].events, 0, terms.sampling)
    assert terms.sampling.amplifies
    assert [(spend.rate, times) for spend, times in book.counts()["client"].items()] == [(1.0, 1)]
    assert terms.lines()[-1] == "independent draws with probability 0.9, which amplify nothing here"
    assert "draws of clients amplify nothing here" in str(algorithm.explain())


def test_the_l1_norm_of_few_integers_is_at_most_the_square_of_the_l2_norm():
    flows = flows_of(*private(bits=2), size=400)
    details = flows["Mean"].events[0].details
    assert details["l1"] == pytest.approx(details["l2"] ** 2)


def test_many_rounds_have_the_privacy_of_the_published_formula():
    """R(a) = a D2^2 / (2 m) + min(((2 a - 1) D2^2 + 6 D1) / (4 m^2), 3 D1 / (2 m)), at D1 = 10, D2 = 3, m = 50."""
    spend = Spend(math.inf, ((10.0, 3.0, 50.0),), relation="zero_out")
    assert plain_divergence(spend, 8) == pytest.approx(8 * 9 / 100 + min((15 * 9 + 60) / 10_000, 30 / 100))
    assert plain_divergence(spend, 8) == pytest.approx(0.7395)


@pytest.mark.parametrize(("shift", "variance"), [(1, 2.0), (3, 20.0), (5, 30.0), (20, 700.0)])
@pytest.mark.parametrize("order", [2, 3, 8, 16])
def test_the_formula_is_above_the_exact_divergence_of_one_integer(shift, variance, order):
    """Summed over the probabilities of one integer, which a client moves by the shift, in log space."""
    from scipy import special

    k = torch.arange(-int(40 * math.sqrt(variance)) - 60, int(40 * math.sqrt(variance)) + 60).double().numpy()
    log_p = torch.from_numpy(special.ive(abs(k), variance)).clamp_min(1e-300).log()
    inside = (log_p > -650)[shift:] & (log_p > -650)[:-shift]
    terms = order * log_p[:-shift][inside] + (1 - order) * log_p[shift:][inside]
    exact = float(torch.logsumexp(terms, 0)) / (order - 1)
    bound = plain_divergence(Spend(math.inf, ((float(shift), float(shift), variance),)), order)
    assert exact <= bound * (1 + 1e-9)
    assert exact >= 0.3 * order * shift**2 / (2 * variance)


def share_of(stage, flow, update, keys):
    ctx = replace(case(Skellam(1.0, 1)).ctx, key=keys, flow=flow)
    return stage.send(update, {}, ctx)[0]


@pytest.mark.parametrize("rotate", [False, True])
def test_the_noise_of_the_fewest_survivors_is_that_of_the_event(rotate):
    """4 clients of zeros, 6,000 coordinates: a variance within six standard errors."""
    stages = private(survivors=4, rotate=rotate)
    flows, size = flows_of(*stages, size=6000), 6000
    stage, wanted = stages[2], flows["Mean"].events[0].details["variance"]
    zeros = Update.of(torch.zeros(4, size, dtype=torch.int64))
    total = share_of(stage, flows["Quantize"], zeros, KEY.for_each("c", names=range(4))).delta.sum(0).double()
    assert float(total.var()) == pytest.approx(wanted, rel=6 * math.sqrt(2 / size))
    assert abs(float(total.mean())) < 6 * math.sqrt(wanted / size)
    assert float(total.abs().max()) <= noise_tail(wanted)


def test_clients_and_stages_draw_apart():
    stages = private()
    flows = flows_of(*stages)
    zeros = Update.of(torch.zeros(2, SIZE, dtype=torch.int64))
    lanes = share_of(stages[2], flows["Quantize"], zeros, KEY.for_each("c", names="ab")).delta
    assert not torch.equal(lanes[0], lanes[1])
    again = share_of(stages[2], flows["Quantize"], zeros, KEY.derive("other").for_each("c", names="ab")).delta
    assert not torch.equal(lanes, again)


def test_the_integers_are_kept_under_the_noise():
    stages = private()
    flows = flows_of(*stages)
    codes = torch.arange(SIZE) - 20
    zeros = torch.zeros(SIZE, dtype=torch.int64)
    key = KEY.owned("a")
    noisy, noise = (share_of(stages[2], flows["Quantize"], Update.of(v), key).delta for v in (codes, zeros))
    assert torch.equal(noisy - noise, codes)


def test_noise_scaled_for_another_model_is_refused():
    stages = private()
    flows = flows_of(*stages)
    with pytest.raises(ConfigError, match="scales its noise for an update of 40 numbers, found 3"):
        share_of(stages[2], flows["Quantize"], Update.of(torch.zeros(3, dtype=torch.int64)), KEY)
    with pytest.raises(ConfigError, match="an update of None numbers"):
        share_of(stages[2], replace(flows["Quantize"], size=None), Update.of(torch.zeros(3, dtype=torch.int64)), KEY)


def test_the_modulus_has_room_for_the_noise():
    quiet = flows_of(Clip(2.0), Quantize(12), SUM, Mean("clients"))["SecureSum"].spec("delta").bits
    noisy = flows_of(*private(multiplier=1.0))["SecureSum"].spec("delta").bits
    loud = flows_of(*private(multiplier=64.0))["SecureSum"].spec("delta").bits
    assert quiet < noisy < loud
    variance = CLIENTS * flows_of(*private(multiplier=64.0))["Skellam"].noise_variance
    assert 2 * (CLIENTS * 2047 + noise_tail(variance)) < 2**loud
    with pytest.raises(hw.HeadwayError, match="62 bits"):
        flows_of(*private(multiplier=1e15, bits=32))


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_run_has_the_noise_that_it_promises(lanes):
    """Two runs that differ by the noise alone: the difference of the models has the variance of the mean's noise."""
    made = []
    for multiplier in (1e-9, 3.0):
        stages = private(multiplier, survivors=4, bits=16, clip=0.5)
        algorithm = hw.Algorithm(hw.chain(*stages), hw.LocalSGD(lr=0.1, batch_size=4), hw.All())
        sizes = tuple(range(4, 4 + CLIENTS))
        run = hw.Run(algorithm, blobs(sizes), linear_task(), rounds=1, seed=5, engine=hw.LocalEngine(lanes=lanes))
        reports = list(run)
        assert reports[0].count("counted") == CLIENTS
        made.append((run.state.params, run.federation.flows[-1]))
        run.close()
    (quiet, _), (noisy, flow) = made
    std = math.sqrt(CLIENTS / 4) * 3.0 * flow.events[0].sensitivity / CLIENTS
    normed = float((noisy - quiet).norm()) / (std * math.sqrt(len(quiet)))
    assert 0.4 < normed < 1.8


def test_masks_workers_and_the_wire_change_no_bit():
    """The noise is each client's own: the same sum with real masks, in worker processes and over the wire."""
    finals = []
    whole = SecureSum()
    for mask, engine in (
        (SUM, hw.LocalEngine(lanes=1, drift=False)),
        (whole, hw.LocalEngine(lanes=1, drift=False)),
        (SUM, hw.ProcessEngine(2, lanes=1, drift=False)),
        (whole, WireEngine()),
    ):
        stages = (Clip(0.5), Quantize(12, rotate=True), Skellam(0.5, 4), mask, Mean("expected"))
        algorithm = hw.Algorithm(hw.chain(*stages), hw.LocalSGD(lr=0.1, batch_size=4), hw.All())
        run = hw.Run(algorithm, blobs(tuple(range(4, 12))), linear_task(), rounds=2, seed=5, engine=engine)
        assert [report.count("counted") for report in run] == [8, 8]
        finals.append(run.state.params)
        run.close()
    assert all(torch.equal(params, finals[0]) for params in finals)


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ((Clip(), Quantize(), Skellam(1.0, 4), Mean("clients")), r"a secure sum after it: .*add SecureSum\(\)"),
        ((Clip(), Skellam(1.0, 4), SUM, Mean("clients")), "integers of a quantiser .* put Quantize before it"),
        ((Clip(), Skellam(1.0, 4), Quantize(), SUM, Mean("clients")), "put Quantize before Skellam"),
        ((Weigh("capped", 9), Clip(), Quantize(), Skellam(1.0, 4), SUM, Mean("expected")), "weights that are the same"),
        ((Clip(), Quantize(), SUM, Skellam(1.0, 4), Mean("clients")), "put Skellam before SecureSum"),
    ],
)
def test_what_skellam_cannot_stand_with_is_refused(stages, sentence):
    with pytest.raises(hw.ChainRefused, match=sentence):
        hw.chain(*stages)


def test_a_secure_sum_that_unmasks_fewer_shares_is_refused():
    with pytest.raises(hw.ChainRefused, match="sums of 4 clients that may be unmasked, and noise that needs 5"):
        hw.chain(Clip(), Quantize(), Skellam(1.0, 5), SUM, Mean("expected"))
    hw.chain(Clip(), Quantize(), Skellam(1.0, 5), SecureSum(min_survivors=5), Mean("expected"))


def test_weights_of_one_are_the_same_weights():
    flows_of(Weigh("uniform"), *private())


def test_late_updates_and_cohorts_below_the_survivors_are_refused():
    enough = SecureSum(min_cohort=6, min_survivors=6, mode="ideal")
    links = hw.chain(Clip(2.0), Quantize(12), Skellam(1.5, 6), enough, Mean("expected"))
    late = hw.core.algorithm.Quorum(count=6, late="keep")
    with pytest.raises(hw.ChainRefused, match="synchronous"):
        hw.Algorithm(links, hw.LocalSGD(lr=0.1), hw.Uniform(count=6), late)
    with pytest.raises(hw.ChainRefused, match="at least 6"):
        hw.Algorithm(links, hw.LocalSGD(lr=0.1), hw.Uniform(count=5))


@pytest.mark.parametrize("options", [{"multiplier": 0.0, "survivors": 4}, {"multiplier": 1.0, "survivors": 0}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        Skellam(**options)
