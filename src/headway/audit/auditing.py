"""The audit of a run: which attacks, in which order, within a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headway.audit.audit_result import AttackRow, AuditReport, Curve, Gallery
from headway.audit.canary_attack import canary_outcome, canary_row, promises
from headway.audit.canary_outcome import CanaryOutcome
from headway.audit.dense_attack import DenseAttack
from headway.audit.example_canaries import example_row
from headway.audit.gradient_attack import GradientAttack
from headway.audit.gradient_inversion import InversionEffort
from headway.audit.membership_attack import NAME, MembershipAttack, seconds_of_round
from headway.audit.protections import described, without_protections
from headway.audit.shadow_federation import ShadowFederation
from headway.core.errors import ConfigError, nearest
from headway.core.registry import brief
from headway.experiment.resolved_runfile import Experiment, RunFile
from headway.protocol.quorum import Quorum
from headway.training.dp_sgd import DPSGD

ATTACKS = ("canaries", "dense", "gradients", "membership")
QUICK_S, THOROUGH_S = 45.0, 900.0
QUICK_RUN_S, THOROUGH_RUN_S = 3.0, 60.0  # of the training of one model for membership inference
CANARY_SHARE = 0.5  # of the budget, at most, for canaries
MOST_CLIENTS = 64  # of a round that is attacked


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """The effort of an audit.

    budget_s: seconds after which no further attack begins; `None` for 45, or 900 if it is thorough.
    delta: of all epsilons; `None` for that of the run's ledger.
    attacks: the names of those that are run, of `ATTACKS`; all, if none are given.
    trusted_server: whether what only the server sees is shown and does not count.

    Raises:
        ConfigError: for an attack that there is not.
    """

    thorough: bool = False
    budget_s: float | None = None
    delta: float | None = None
    attacks: tuple[str, ...] = ()
    trusted_server: bool = False

    def __post_init__(self) -> None:
        for name in self.attacks:
            if name not in ATTACKS:
                raise ConfigError(f"there is no attack named {name!r}{nearest(name, ATTACKS)}.")

    @property
    def seconds(self) -> float:
        """The budget."""
        return self.budget_s if self.budget_s is not None else THOROUGH_S if self.thorough else QUICK_S


@dataclass
class Findings:
    """What the attacks have found so far."""

    rows: list[AttackRow] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    canaries: list[CanaryOutcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Step = tuple[str, Callable[[Findings], None]]


class Audit:
    """The attacks on one run, made ready; `run` carries them out.

    Raises:
        ConfigError, DataError, ChainRefused: if the run file's parts do not fit.
    """

    def __init__(self, runfile: RunFile, options: AuditOptions | None = None) -> None:
        self.runfile, self.options = runfile, options or AuditOptions()
        experiment = runfile.build()
        self.seed = runfile.sections.run.seed
        self.algorithm, self.task = experiment.algorithm, experiment.task
        self.parts = (experiment.algorithm, experiment.data, experiment.task, self.seed)
        self.real = ShadowFederation(experiment.algorithm, experiment.data, experiment.task, self.seed)
        self.plain = self._plain(experiment)
        self.found = Findings()
        self.cohort = self._cohort()

    def _plain(self, experiment: Experiment) -> ShadowFederation:
        algorithm = without_protections(experiment.algorithm)
        if algorithm is experiment.algorithm:
            return self.real
        return ShadowFederation(algorithm, experiment.data, experiment.task, self.seed)

    def _cohort(self) -> tuple[str, ...]:
        """The clients of the first round, as the sampler draws them; all, if it draws none."""
        clients = self.real.data.clients
        drawn = self.algorithm.cohort(clients, 0, self.real.key) or tuple(clients)
        if len(drawn) > MOST_CLIENTS:
            self.found.notes.append(
                f"the attacked round has {MOST_CLIENTS} of its {len(drawn)} clients, to take less time."
            )
        return tuple(drawn[:MOST_CLIENTS])

    def steps(self) -> list[Step]:
        """The attacks by name, in their order."""
        made = {
            "canaries": self._canaries,
            "dense": self._dense,
            "gradients": self._gradients,
            "membership": self._membership,
        }
        return [step for name, make in made.items() if name in (self.options.attacks or ATTACKS) for step in make()]

    def _dense(self) -> list[Step]:
        """Inversion of the first dense layer, on an update of one step and of a round."""
        dense = DenseAttack(self.plain, self.real, self.cohort)
        if dense.missing is not None:
            self.found.notes.append(dense.missing)
            return []
        made: list[Step] = []
        for steps, words in ((1, "one step"), (None, "a round")):
            if steps == 1 and not self.algorithm.trainer.facts.paced:
                trainer = self.algorithm.trainer.facts.name
                self.found.notes.append(f"an update of one step was not attacked: {trainer} cannot stop after one.")
            else:
                made.append((f"dense-layer inversion, {words}", _dense(dense, steps)))
        return made

    def _gradients(self) -> list[Step]:
        """Gradient inversion on an update of one step."""
        thorough = self.options.thorough
        effort = InversionEffort(2000, 4) if thorough else InversionEffort()
        made: list[Step] = []
        for records in (1, 4) if thorough else (1,):
            attack = GradientAttack(self.parts, self.plain.algorithm, self.cohort, effort, records)
            missing = attack.missing(self.real.flat_module.layout.size)
            if missing is not None:
                self.found.notes.append(missing)
                return []
            if attack.records not in [int(name.split()[-2]) for name, _ in made]:
                made.append((f"gradient inversion, {attack.records} record(s)", _gradients(attack)))
        return made

    def _membership(self) -> list[Step]:
        """Membership inference on the model after as many rounds as there is time for."""
        seconds, shadows = (THOROUGH_RUN_S, 4) if self.options.thorough else (QUICK_RUN_S, 1)
        asked = self.runfile.sections.run.rounds
        rounds = max(1, min(asked, int(seconds / seconds_of_round(self.real, self.cohort))))
        plain = self.plain.algorithm
        attack = MembershipAttack(plain, self.real, self.task, self.seed, rounds)
        if attack.missing is not None:
            self.found.notes.append(attack.missing)
            return []
        if self.algorithm.quorum != Quorum():
            self.found.notes.append("no membership inference: the run's quorum needs a clock, which shadow runs lack.")
            return []
        if rounds < asked:
            effort = "" if self.options.thorough else "; --thorough trains for longer"
            self.found.notes.append(
                f"membership inference is on the model after {rounds} of {asked} rounds, to take less time{effort}."
            )

        def run(found: Findings) -> None:
            found.rows.append(attack.row(shadows))
            found.curves += attack.curves

        return [(NAME, run)]

    def _canaries(self) -> list[Step]:
        """Canary rounds, for each place where noise is promised to hide whole clients."""
        events = self.real.flows[-1].events
        places = [place for place in ("server", "client") if promises(events, place)]
        made = [(f"canary clients, {place}", self._canary(place)) for place in places]
        if isinstance(self.algorithm.trainer, DPSGD) and any(event.unit == "example" for event in events):
            made.append(("canary examples", self._canary_examples))
        if not made:
            self.found.notes.append(
                "no canaries: the algorithm promises no differential privacy, so there is no epsilon to compare with."
            )
        return made

    def _canary_examples(self, found: Findings) -> None:
        found.rows.append(example_row(*self.parts, self.runfile.sections.run.rounds, self.delta))

    def _canary(self, place: str) -> Callable[[Findings], None]:
        def run(found: Findings) -> None:
            seconds = self.options.seconds * CANARY_SHARE
            outcome = canary_outcome(self.parts, place, self.delta, self.runfile.sections.run.rounds, seconds)
            found.rows.append(canary_row(outcome))
            found.canaries.append(outcome)

        return run

    @property
    def delta(self) -> float:
        """The delta of all epsilons: that of the run's ledger, if no other is asked for."""
        if self.options.delta is not None:
            return self.options.delta
        return self.runfile.sections.privacy_options.delta_for(self.real.data.population)

    def run(self, steps: Sequence[Step], progress: Callable[[str], None] = lambda name: None) -> AuditReport:
        """The report, after all attacks, or those that began within the budget.

        steps: what `steps` has made.  progress: called with the name of each attack when it is done.
        """
        begun, left_out = time.perf_counter(), list[str]()
        for name, attack in steps:
            if time.perf_counter() - begun > self.options.seconds:
                left_out.append(name)
            else:
                attack(self.found)
            progress(name)
        if left_out:
            self.found.notes.append(f"not run, since the time budget was spent: {', '.join(left_out)}.")
        return self._report()

    def _report(self) -> AuditReport:
        found = self.found
        if self.real.flows[-1].server_sees == "bucket sums":
            found.notes.append(
                "the attacks read what the rule makes of the buckets' sums; the server sees the sums themselves, of "
                "fewer clients each, which show it more."
            )
        return AuditReport(
            name=self.runfile.name,
            seed=self.seed,
            chain=", ".join(brief(stage) for stage in self.algorithm.chain.stages),
            protections=described(self.algorithm),
            trusted_server=self.options.trusted_server,
            sees=self.real.sees,
            rows=tuple(found.rows),
            galleries=tuple(found.galleries),
            curves=tuple(found.curves),
            canaries=tuple(found.canaries),
            notes=tuple(found.notes),
            thorough=self.options.thorough,
        )


def _dense(attack: DenseAttack, steps: int | None) -> Callable[[Findings], None]:
    def run(found: Findings) -> None:
        attack.galleries.clear()
        found.rows += attack.rows(steps)
        found.galleries += attack.galleries

    return run


def _gradients(attack: GradientAttack) -> Callable[[Findings], None]:
    def run(found: Findings) -> None:
        found.rows.append(attack.row())
        found.galleries += attack.galleries

    return run
