"""A round's effects: budget is reserved before noise is drawn, a release is kept, completed effects are replayed."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from conformance.teststages import NoisyRelease
from conformance.tiny import engine

import headway as hw
from headway.core.errors import HeadwayError
from headway.core.flow import Flow, PrivacyEvent
from headway.protocol.effects import Concluded, EffectHandler, Persist, Reserve, drive
from headway.protocol.messages import Answer, Ask, Train


class Refused(HeadwayError):
    pass


def noisy(seed=0):
    return engine(hw.Clip(norm=0.5), hw.Mean(over="expected"), NoisyRelease(0.1), seed=seed)


def counting(monkeypatch):
    drawn, release = [], NoisyRelease.release
    monkeypatch.setattr(NoisyRelease, "release", lambda *given: drawn.append(1) or release(*given))
    return drawn


def test_a_release_is_reserved_first_and_kept_after(monkeypatch):
    tiny, drawn, order = noisy(), counting(monkeypatch), []
    handler = EffectHandler(tiny.send, completed=lambda effect, answer: order.append((type(effect), len(drawn))))
    drive(tiny.generator(tiny.start()), handler)
    assert order == [(Ask, 0), (Reserve, 0), (Persist, 1)]


def test_a_reservation_names_the_round_and_the_events_of_the_flow():
    tiny, reserved = noisy(), []
    start = tiny.run(1)
    drive(tiny.generator(start), EffectHandler(tiny.send, reserve=reserved.append))
    assert reserved == [Reserve(tiny.flows[-1].events, 1)]
    assert reserved[0].events[0].mechanism == "gaussian"


def test_a_refused_reservation_stops_the_round_before_its_noise_is_drawn(monkeypatch):
    tiny, drawn, completed = noisy(), counting(monkeypatch), []

    def refuse(effect):
        raise Refused("the budget is spent")

    handler = EffectHandler(tiny.send, refuse, lambda effect, answer: completed.append(type(effect)))
    with pytest.raises(Refused, match="the budget is spent"):
        drive(tiny.generator(tiny.start()), handler)
    assert (drawn, completed) == ([], [Ask])


def test_a_kept_release_is_used_again_and_not_drawn_again():
    """As with noise of the operating system, which no key repeats."""
    tiny, answers = noisy(), []
    start = tiny.start()
    whole = drive(tiny.generator(start), EffectHandler(tiny.send, completed=lambda _, answer: answers.append(answer)))
    other = noisy(seed=1)
    assert not torch.equal(drive(other.generator(start), EffectHandler(other.send)).params, whole.params)
    again = drive(other.generator(start), lambda effect: pytest.fail("carried out again"), answers)
    assert torch.equal(again.params, whole.params)


def test_a_round_without_noise_only_asks():
    tiny, effects = engine(hw.Mean()), []
    drive(tiny.generator(tiny.start()), EffectHandler(tiny.send, completed=lambda effect, _: effects.append(effect)))
    assert [type(effect.request) for effect in effects] == [Train]


def test_a_round_without_updates_is_reserved_like_any_other():
    """Its noise hides that nobody was drawn."""
    tiny, reserved = noisy(), []
    drive(tiny.generator(tiny.start(), cohort=()), EffectHandler(tiny.send, reserve=reserved.append))
    assert reserved == [Reserve(tiny.flows[-1].events, 0)]


@dataclass(frozen=True)
class NoiseOfClients(hw.Stage):
    """Promises noise that clients draw."""

    place: ClassVar[hw.Place] = hw.Place.NOISE

    def connect(self, flow: Flow) -> Flow:
        event = PrivacyEvent("gaussian", 1.0, 0.5, at="client")
        return flow.set(self, events=(*flow.events, event)).keep(self, "additive", "dense", "bound")


def test_a_release_that_clients_make_is_reserved_before_they_are_asked():
    """Their messages are the release: after a refusal none must have been sent."""
    tiny, order = engine(hw.Clip(norm=0.5), NoiseOfClients(), hw.Mean(over="expected"), NoisyRelease(0.1)), []
    handler = EffectHandler(tiny.send, completed=lambda effect, _: order.append(effect))
    drive(tiny.generator(tiny.start()), handler)
    assert [type(effect) for effect in order] == [Reserve, Ask, Reserve, Persist]
    places = [{event.at for event in effect.events} for effect in order if isinstance(effect, Reserve)]
    assert places == [{"client"}, {"server"}]


def test_a_round_that_asks_nobody_reserves_nothing_for_clients():
    tiny, reserved = engine(hw.Clip(norm=0.5), NoiseOfClients(), hw.Mean(over="expected")), []
    drive(tiny.generator(tiny.start(), cohort=()), EffectHandler(tiny.send, reserve=reserved.append))
    assert reserved == []


def test_an_event_with_details_is_a_value_like_others():
    one = PrivacyEvent("skellam", 1.0, 2.0, at="distributed", details={"l1": 3.0})
    assert one == PrivacyEvent("skellam", 1.0, 2.0, at="distributed", details={"l1": 3.0})
    assert len({one, PrivacyEvent("skellam", 1.0, 2.0, at="distributed", details={"l1": 4.0})}) == 2


def test_what_a_protocol_has_concluded_is_its_own_answer():
    answer = Answer(notes=("nothing was unmasked",))
    seen = []
    handler = EffectHandler(lambda ask: Answer(), completed=lambda effect, given: seen.append(given))
    assert handler(Concluded(answer)) is answer
    assert seen == [answer]
