"""`headway.privacy.noise_plan`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from headway.core.errors import ConfigError
from headway.core.facts import PrivacyEvent
from headway.core.stage import Place
from headway.experiment.federation import Federation
from headway.experiment.run_options import RunOptions
from headway.experiment.runfile import RunFile, load_runfile
from headway.observe.text import console, emit, number_text, plain_table, show_table
from headway.privacy.calibration import epsilon_after, noise_for, rounds_within
from headway.privacy.ledger import epsilon_text
from headway.privacy.noise_plan import USABLE, PrivacyPlan
from headway.privacy.options import PrivacyOptions
from headway.privacy.spends import ACCOUNTS, Sampling, accounts_of

NEEDED = {
    "population": "--population, how many clients there are",
    "cohort": "--cohort, how many take part in a round on average",
    "rounds": "--rounds",
    "epsilon": "--epsilon",
}


@dataclass(frozen=True)
class PlanOptions:
    """The options of the command; `None` for what a run file has."""

    population: int | None = None
    cohort: float | None = None
    rounds: int | None = None
    epsilon: float | None = None
    delta: float | None = None
    model_size: int | None = None
    clip: float | None = None
    fixed: bool = False


@dataclass(frozen=True)
class OwnNoise:
    """What the chain of a run file promises as it is written.

    events, sampling: of each round.  rounds: how many the file is for.
    """

    events: tuple[PrivacyEvent, ...]
    sampling: Sampling
    rounds: int
    options: PrivacyOptions
    delta: float

    def lines(self, calibrated: bool = True) -> list[str]:
        """A sentence for each promise: epsilon after all rounds, and how many the budget allows.

        calibrated: whether it has the noise with which the budget would do, which takes seconds to find.
        """
        lines = []
        for account in accounts_of(self.events):
            spent = epsilon_after(self.events, self.sampling, self.rounds, self.delta, account)
            text = f"this file ({ACCOUNTS[account]}): epsilon {epsilon_text(spent)} after {self.rounds} rounds"
            limit = self.options.limit(account)
            if limit is not None and spent > limit:
                allowed = rounds_within(self.events, self.sampling, limit, self.delta, self.rounds, account)
                text += f", above its budget of {limit:g}: the run would end after {allowed} rounds"
                if calibrated:
                    factor = noise_for(limit, self.delta, self.rounds, self.sampling, self.events, account)
                    text += f"; with {factor:.4g} times the noise it has all of them"
            elif limit is not None:
                text += f", within its budget of {limit:g}"
            lines.append(f"{text}.")
        return lines


def show_plan(name: str | None, given: PlanOptions, sets: Sequence[str], as_json: bool) -> None:
    """Computes a plan and prints it.

    Raises:
        ConfigError: if something is missing, or cannot be.
    """
    own = None
    if name is not None:
        given, own = _of_file(load_runfile(name, sets), given)
    elif sets:
        raise ConfigError("--set changes a run file, and none is given: name it, or give the numbers as options.")
    for key, option in NEEDED.items():
        if getattr(given, key) is None:
            raise ConfigError(f"a plan needs {option}; or a run file that has it.")
    made = _plan(given)
    if as_json:
        emit({"event": "plan", **_record(made), "file": [] if own is None else own.lines()})
        return
    screen = console()
    show_table(screen, plain_table(["", ""], _rows(made), numbers=False))
    for line in [*_sentences(made), *([] if own is None else own.lines())]:
        screen.print(line, soft_wrap=True, markup=False, highlight=False)


def _plan(given: PlanOptions) -> PrivacyPlan:
    assert given.population is not None
    assert given.cohort is not None
    assert given.rounds is not None
    assert given.epsilon is not None
    delta = PrivacyOptions(delta=given.delta).delta_for(given.population)
    more = {} if given.clip is None else {"clip": given.clip}
    return PrivacyPlan(
        population=given.population,
        cohort=float(given.cohort),
        rounds=given.rounds,
        epsilon=float(given.epsilon),
        delta=delta,
        model_size=given.model_size,
        fixed=given.fixed,
        **more,
    )


def _of_file(runfile: RunFile, given: PlanOptions) -> tuple[PlanOptions, OwnNoise | None]:
    """The options with what a run file has, and what its chain promises."""
    experiment, options = runfile.build(), runfile.sections.privacy_options
    rounds = given.rounds or runfile.sections.run.rounds
    parts = Federation.open(experiment.algorithm, experiment.data, experiment.task, RunOptions(rounds))
    try:
        last, size = parts.flows[-1], parts.flat_module.layout.size
        population = given.population or len(experiment.data.clients)
        clips = [stage for stage in experiment.algorithm.chain.stages if stage.place is Place.CLIP]
        norm = getattr(clips[-1], "norm", None) if clips else None
    finally:
        parts.engine.close()
    sampling = Sampling.of_flow(last)
    unamplified = bool(last.events) and not any(event.draws_amplify for event in last.events)
    share = 1.0 if sampling.expected is None else sampling.expected / len(experiment.data.clients)
    filled = replace(
        given,
        population=population,
        cohort=given.cohort or share * population,
        rounds=rounds,
        epsilon=given.epsilon or options.epsilon,
        delta=given.delta or options.delta,
        model_size=given.model_size or size,
        clip=given.clip or (norm if isinstance(norm, float) else None),
        fixed=given.fixed or not sampling.amplifies or unamplified,
    )
    if not last.events:
        return filled, None
    delta = given.delta or options.delta_for(population)
    return filled, OwnNoise(last.events, sampling, rounds, options, delta)


def _rows(made: PrivacyPlan) -> list[list[str]]:
    kind = "a fixed size, no amplification" if made.fixed else f"each with probability {made.rate:.4g}"
    rows = [
        ["clients", f"{made.population}, of whom {made.cohort:g} take part in a round ({kind})"],
        [
            "promise",
            f"epsilon {made.epsilon:g} at delta {made.delta:g} after {made.rounds} rounds, for each client",
        ],
        ["noise multiplier", f"{_up(made.noise_multiplier)}"],
        [
            "noise on the mean",
            f"{made.noise_multiplier * made.clip / made.cohort:.4g} on each number, updates clipped to {made.clip:g}",
        ],
    ]
    if not made.fixed and made.rate < 1:
        rows.append(["with a fixed cohort", f"{_up(made.unsampled_multiplier)}, since nothing is amplified"])
    if made.noise_to_signal is not None and made.total_noise_to_signal is not None:
        rows.append(["model", f"{made.model_size} shared parameters"])
        rows.append(["noise to signal", f"{number_text(made.noise_to_signal)} in a round, at best"])
        rows.append(["", f"{number_text(made.total_noise_to_signal)} over all rounds, at best"])
    return rows


def _sentences(made: PrivacyPlan) -> list[str]:
    """Whether the federation is large enough, and what would make it so."""
    total = made.total_noise_to_signal
    if total is None:
        return ["Give --model-size to see what the noise does to the signal."]
    if made.large_enough:
        return [
            f"The federation is large enough for the promise: the noise of all rounds is {total:.2g} of the furthest "
            f"that the model can move, and up to {USABLE:g} can be learned under, by a rule of thumb."
        ]
    sentence = (
        f"The federation is too small for the promise: the noise of all rounds is {total:.3g} times the furthest that "
        f"the model can move, and up to {USABLE:g} can be learned under, by a rule of thumb."
    )
    ways = [f"{made.sufficient_population} clients, of whom the same share takes part"]
    if made.sufficient_model_size:
        ways.append(f"a model of {made.sufficient_model_size} shared parameters")
    if made.sufficient_epsilon is not None:
        ways.append(f"epsilon {epsilon_text(made.sufficient_epsilon)}")
    return [sentence, f"One of these would do: {'; or '.join(ways)}."]


def _record(made: PrivacyPlan) -> dict[str, Any]:
    return {
        **asdict(made),
        "noise_multiplier": made.noise_multiplier,
        "noise_on_the_mean": made.noise_multiplier * made.clip / made.cohort,
        "noise_to_signal": made.noise_to_signal,
        "total_noise_to_signal": made.total_noise_to_signal,
        "large_enough": made.large_enough,
        "sufficient_population": made.sufficient_population,
        "sufficient_model_size": made.sufficient_model_size,
        "sufficient_epsilon": made.sufficient_epsilon,
    }


def _up(multiplier: float) -> str:
    """A multiplier with four decimals, never rounded down."""
    return f"{math.ceil(multiplier * 1e4 - 1e-4) / 1e4:.4f}"
