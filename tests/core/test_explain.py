"""The table that people read, pinned."""

from conformance.teststages import FixedPoint, NoisyRelease, PairwiseMasks
from conformance.tiny import engine

import headway as hw
from headway.stages import ECGR, Clip, FedProx, Mean, Scaffold, ServerAdam, ServerSGD, Weigh

PLAIN = """\
stage                 runs at                       server sees
--------------------  ----------------------------  -------------
FedProx()             client, each step             -
Scaffold()            client, each step and server  -
ECGR()                client                        -
Mean(over='clients')  server                        each update
ServerAdam(lr=0.1)    server                        the aggregate
travels: delta, control, weight
the server sees each client's update, and in the clear: number of examples, training loss.
asked of the trainer: steps
warning: Scaffold with ServerAdam runs, but no theory covers the pair: compare it with ServerSGD."""

SECURE = """\
stage                         runs at            server sees                bound  privacy event
----------------------------  -----------------  -------------------------  -----  EVENT_RULE
Weigh(by='capped', cap=10)    client             -                          none   -
Clip(norm=0.5)                client             -                          0.5    -
FixedPoint(bits=20)           client and server  -                          0.5    -
PairwiseMasks()               client and server  -                          0.5    -
Mean(over='expected')         server             only the sum               0.25   -
NoisyRelease(multiplier=1.1)  server             the aggregate, with noise  -      EVENT
ServerSGD()                   server             the aggregate, with noise  -      -
travels: delta, weight
the cohort hides nobody (sampling: listed): each round counts in full; Poisson sampling amplifies"""
EVENT = "gaussian noise x1.1 on delta, weight, at the server, hides one client (added or removed)"


def test_a_plain_chain_is_explained() -> None:
    tiny = engine(FedProx(), Scaffold(), ECGR(), Mean("clients"), ServerAdam(lr=0.1))
    assert str(tiny.algorithm.explain()) == PLAIN


def test_a_protected_chain_is_explained() -> None:
    client = (Weigh("capped", 10), Clip(0.5), FixedPoint(20), PairwiseMasks())
    tiny = engine(*client, Mean("expected"), NoisyRelease(1.1), ServerSGD(), rounds=((0, 1),))
    expected = SECURE.replace("EVENT_RULE", "-" * len(EVENT)).replace("EVENT", EVENT)
    assert str(tiny.algorithm.explain()) == expected


def test_what_hides_clients_is_explained() -> None:
    chain = hw.chain(Clip(0.5), Mean("expected"), hw.GaussianNoise(2.0))
    shown = str(hw.Algorithm(chain, hw.LocalSGD(lr=0.1), hw.Poisson(rate=0.1, most=20)).explain())
    assert "gaussian noise x2 on delta, at the server, hides one client (added or removed)" in shown
    assert "in the clear: number of examples. The noise is added after that: the server is trusted." in shown
    assert "drawn with probability 0.1, at most 20, which amplifies privacy" in shown


def test_the_noise_of_a_trainer_is_not_that_of_a_stage() -> None:
    trainer = hw.DPSGD(lr=0.1, noise_multiplier=1.5, clip_norm=1.0, sample_rate=0.1)
    shown = hw.Algorithm(hw.chain(Mean("clients")), trainer, hw.Uniform(count=2)).explain()
    assert "privacy event" not in shown.columns
    assert any("privacy events of DPSGD: example gaussian noise x1.5" in note for note in shown.notes)
