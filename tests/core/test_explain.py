"""The table that people read, pinned."""

from conformance.teststages import FixedPoint, NoisyRelease, PairwiseMasks
from conformance.tiny import engine

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
----------------------------  -----------------  -------------------------  -----  ---------------------
Weigh(by='capped', cap=10)    client             -                          none   -
Clip(norm=0.5)                client             -                          0.5    -
FixedPoint(bits=20)           client and server  -                          0.5    -
PairwiseMasks()               client and server  -                          0.5    -
Mean(over='expected')         server             only the sum               0.25   -
NoisyRelease(multiplier=1.1)  server             the aggregate, with noise  -      gaussian (noise x1.1)
ServerSGD()                   server             the aggregate, with noise  -      -
travels: delta, weight"""


def test_a_plain_chain_is_explained() -> None:
    tiny = engine(FedProx(), Scaffold(), ECGR(), Mean("clients"), ServerAdam(lr=0.1))
    assert str(tiny.algorithm.explain()) == PLAIN


def test_a_protected_chain_is_explained() -> None:
    client = (Weigh("capped", 10), Clip(0.5), FixedPoint(20), PairwiseMasks())
    tiny = engine(*client, Mean("expected"), NoisyRelease(1.1), ServerSGD(), rounds=((0, 1),))
    assert str(tiny.algorithm.explain()) == SECURE
