"""A training loop of one's own applies the chain's step rules, or a chain that has some is refused."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from toys import blobs, linear_task

import headway as hw
from headway.core.flow import TrainerFacts
from headway.core.stage import Place, Stage
from headway.training.trainer import Trained, trainers


@dataclass(frozen=True)
class Loop(hw.Trainer):
    """Three steps of full-batch gradient descent with torch's own optimizer."""

    lr: float = 0.1
    says: tuple[str, ...] = ("gradient",)
    does: bool = True
    made: ClassVar[dict] = {}

    @property
    def facts(self):
        return TrainerFacts("Loop", applies=frozenset(self.says))

    def drops(self, client_key):
        return False

    def train(self, work):
        flat_module, start = work.flat_module, work.flat_module.shared.clone()
        optimizer = torch.optim.SGD(flat_module.parameters, lr=self.lr)
        rules = hw.step_rules(work) if self.does else None
        for _ in range(3):
            optimizer.zero_grad()
            loss = flat_module.task.criterion.mean(flat_module.module(work.examples.inputs), work.examples.targets)
            loss.backward()
            if rules is not None:
                rules.apply()
            optimizer.step()
        return Trained(flat_module.shared - start, 3, 3 * self.lr, 3 * self.lr, float(loss.detach()))


def trained(trainer, *parts):
    algorithm = hw.Algorithm(hw.chain(*parts, hw.Mean()), trainer, hw.All())
    run = hw.Run(algorithm, blobs(), linear_task(), rounds=3)
    list(run)
    return run.state.params


@pytest.mark.parametrize("rule", [hw.FedProx(mu=3.0), hw.Scaffold(), hw.FedDyn(alpha=0.5)], ids=repr)
def test_a_loop_that_applies_the_rules_is_local_sgd(rule) -> None:
    mean = [hw.Mean(over="clients")] if isinstance(rule, hw.FedDyn) else [hw.Mean()]
    sgd = hw.LocalSGD(lr=0.1, batch_size=None, steps=3)
    both = []
    for trainer in (Loop(), sgd):
        run = hw.Run(hw.Algorithm(hw.chain(rule, *mean), trainer, hw.All()), blobs(), linear_task(), rounds=3)
        list(run)
        both.append(run.state.params)
    torch.testing.assert_close(both[0], both[1], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(both[0], trained(Loop()), atol=1e-3)


@pytest.mark.parametrize(
    "rule", [hw.FedProx(mu=100.0), hw.Scaffold(), hw.FedDyn(), hw.Scaffold(correct="step")], ids=repr
)
def test_a_rule_that_the_trainer_does_not_apply_is_refused(rule) -> None:
    with pytest.raises(hw.ChainRefused, match=r"Loop, which applies none.*step_rules") as refusal:
        hw.Algorithm(hw.chain(rule, hw.Mean(over="clients")), Loop(says=()), hw.All())
    assert type(rule).__name__ in str(refusal.value)
    assert refusal.value.caused_by == "Loop"


def test_a_rule_for_directions_is_refused_by_a_loop_for_gradients() -> None:
    with pytest.raises(hw.ChainRefused, match="directions of steps"):
        hw.Algorithm(hw.chain(hw.Scaffold(correct="step"), hw.Mean()), Loop(), hw.All())


def test_a_trainer_that_says_so_and_does_not_is_refused_in_its_first_round() -> None:
    with pytest.raises(hw.ConfigError, match="trained without those of FedProx"):
        trained(Loop(does=False), hw.FedProx(mu=100.0))
    trained(Loop(does=False))  # without a rule there is nothing to apply


def test_gradients_that_are_not_there_are_a_sentence() -> None:
    @dataclass(frozen=True)
    class Early(Loop):
        def train(self, work):
            hw.step_rules(work).apply()

    with pytest.raises(hw.ConfigError, match=r"after loss\.backward"):
        trained(Early(), hw.FedProx())


@dataclass(frozen=True)
class Halve(Stage):
    """Combines steps, and does not say that it needs them."""

    place: ClassVar[Place] = Place.COMBINE
    share: float = field(default=0.5)

    def combine(self, gram, ctx):
        return torch.full_like(gram[..., 0], self.share)


def test_a_combination_of_steps_needs_a_trainer_that_offers_them() -> None:
    with pytest.raises(hw.ChainRefused, match="steps"):
        hw.Algorithm(hw.chain(Halve(), hw.Mean()), Loop(), hw.All())
    half = trained(hw.LocalSGD(steps=2), Halve())
    assert not torch.equal(half, trained(hw.LocalSGD(steps=2)))


def test_the_loop_that_the_page_on_extending_shows_is_local_sgd() -> None:
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
    (source,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class FullBatch" in block]
    names: dict = {"__name__": "extending"}
    with trainers.classes.restored():
        exec(compile(source, "extending.md", "exec"), names)
    sgd = hw.LocalSGD(lr=0.1, batch_size=None, steps=3)
    shown, own = (trained(trainer, hw.FedProx(mu=3.0)) for trainer in (names["FullBatch"](), sgd))
    torch.testing.assert_close(shown, own, rtol=1e-5, atol=1e-6)
