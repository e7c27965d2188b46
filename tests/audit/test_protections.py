"""Protections are what hides or bounds an update; without them the same algorithm is left."""

from conformance.teststages import NoisyRelease

import headway as hw
from headway.audit.protections import described, protections, without_protections


def algorithm(*stages):
    return hw.Algorithm(hw.chain(*stages), hw.LocalSGD(), hw.All())


def test_clips_and_noise_protect_and_the_rest_stays():
    whole = algorithm(hw.FedProx(0.1), hw.Clip(1.0), hw.Mean(over="expected"), NoisyRelease(), hw.ServerAdam())
    assert [type(stage).__name__ for stage in protections(whole)] == ["Clip", "NoisyRelease"]
    assert without_protections(whole).chain == hw.chain(hw.FedProx(0.1), hw.Mean(over="expected"), hw.ServerAdam())


def test_an_algorithm_without_protections_is_itself():
    plain = algorithm(hw.Mean())
    assert without_protections(plain) is plain


def test_a_private_trainer_is_a_protection():
    private = hw.Algorithm(hw.chain(hw.Mean()), hw.DPSGD(lr=0.3, noise_multiplier=2.0, epochs=3), hw.All())
    assert described(private) == ("DPSGD(lr=0.3, noise_multiplier=2.0, epochs=3)",)
    assert without_protections(private).trainer == hw.LocalSGD(lr=0.3, batch_size=32, epochs=3)
