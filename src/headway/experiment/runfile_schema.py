"""The sections of a run file, as they may be written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from headway.core.errors import ConfigError
from headway.core.registry import build, to_numbers
from headway.engines import ENGINES, FLEETS, DeviceFleet, Engine, PooledEngine, build_engine
from headway.experiment.attack_grid_section import AttackGridSection
from headway.experiment.attack_section import AttackSection
from headway.model.device import Precision
from headway.privacy.options import PrivacyOptions


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class RunSection(_Section):
    """The table [run]: rounds, seed, evaluation, checkpoints.

    imports: modules of one's own that register stages, trainers or samplers.  imports_from: the folder that they are
    found in, by default that of the run file.
    """

    name: str | None = Field(default=None, pattern=r"^\w[\w.+-]*$")
    rounds: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    evaluate_every: int | Literal["never"] = 1
    checkpoint_every: int = Field(default=10, ge=1)
    keep: int = Field(default=3, ge=1)
    until_s: float | None = Field(default=None, gt=0)
    threads: int | None = Field(default=None, ge=1, le=1024)
    imports: list[str] | None = None
    imports_from: str | None = None

    @field_validator("evaluate_every", mode="plain")
    @classmethod
    def _rounds_or_never(cls, value: Any) -> Any:
        if value == "never" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            return value
        raise PydanticCustomError("rounds_or_never", 'Input should be a whole number from 1, or "never"')


class DataSection(_Section):
    """Which data, and how they are divided; further keys are options of the source."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    source: str
    test_share: float = Field(default=0.2, ge=0, lt=1)
    clients: int | None = None
    partition: dict[str, Any] | None = None
    shift: Any = None


class ModelSection(_Section):
    """Which model; further keys are its options.  path: where a module of one's own is found."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    name: str
    path: str | None = None


class TargetScaleSection(_Section):
    """Targets are learned as (y - centre) / scale; a list has a number for each of several targets."""

    centre: float | list[float]
    scale: float | list[float]


class TaskSection(_Section):
    """Loss, metrics, what is shared; the defaults follow from the data.

    target_scale: of a regression, centre and scale of the targets, or "training" for the mean and standard deviation of
    all clients' training targets; by default targets stay as they are.  It changes nothing where there are
    classes.
    """

    loss: str | None = None
    metrics: list[str] | None = None
    shared: list[str] | None = None
    buffers: Literal["local", "average"] | None = None
    dtype: Literal["float32", "float64"] = "float32"
    output: str | int | None = None
    target_scale: Literal["training"] | TargetScaleSection | None = None


class AlgorithmSection(_Section):
    """A preset, a recipe with its options or a chain; trainer, sampler and quorum.  The settings here win.

    reputation: the policy on clients whose updates do not fit; see `Reputation`.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    preset: str | None = None
    recipe: str | None = None
    chain: list[dict[str, Any]] | None = None
    trainer: dict[str, Any] = Field(default_factory=dict)
    sampler: dict[str, Any] = Field(default_factory=dict)
    quorum: dict[str, Any] = Field(default_factory=dict)
    reputation: dict[str, Any] | None = None


class CompareSection(_Section):
    """The table [compare]: methods, seeds, and their options."""

    methods: list[str] = Field(default_factory=list)
    seeds: int = Field(default=3, ge=1)
    target: float | None = None
    bounds: bool = False
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    tuning_seeds: int = Field(default=1, ge=1)


class AdviseSection(_Section):
    """The table [advise]: facts that `headway advise` cannot measure; see its options."""

    untrusted_server: bool | None = None
    untrusted_clients: bool | None = None
    unreliable: float | None = Field(default=None, ge=0, le=1)
    uplink: str | None = None


class EngineSection(_Section):
    """The table [engine]: where clients train.

    kind: "local", in this process; "processes", in several; "ray", on a Ray cluster; or the name of another
    package's engine. If it is left out, in several where `workers` is given and in this one otherwise. workers: in
    so many; one per core, if only the kind is given. address: of the Ray cluster, host:port or "auto"; by default a
    cluster of this machine alone. lanes: how many side by side, or "auto" for what is measured to be
    fastest; by default 1 in this process and "auto" elsewhere. low_rank, channels_last, compiled: see
    `LocalEngine`; by default measured with lanes = "auto". drift: whether to measure in every round how
    far the clients pull apart. device: "cpu", "cuda" or "cuda:N", in this process. precision: of the products in
    training on a GPU. client_timeout: seconds after which a client in a worker process is taken to hang, which ends
    the run with its name. group: how many clients are summed before the exact sum is paid, in this process; with 1 the
    bits are those of any tree of relays. options: keys of another package's own engine.
    """

    kind: str | None = None
    workers: int | None = Field(default=None, ge=1, le=1024)
    address: str | None = None
    lanes: int | Literal["auto"] | None = None
    low_rank: bool | None = None
    channels_last: bool | None = None
    compiled: bool | None = None
    drift: bool | None = None
    device: str | None = None
    precision: Precision | None = None
    client_timeout: float | None = Field(default=None, gt=0)
    group: int | None = Field(default=None, ge=1)
    options: dict[str, Any] = Field(default_factory=dict)

    def check_kind(self) -> None:
        """Refuses an engine that is not known.

        Raises:
            ConfigError: naming those that are.
        """
        if self.kind is not None and self.kind not in ENGINES:
            known = " or ".join(f'"{name}"' for name in ENGINES)
            more = "".join(f"; {problem.removesuffix('.')}" for problem in ENGINES.problems)
            raise ConfigError(f'engine.kind must be one of {known}, found "{self.kind}"{more}.')

    def engine(self) -> Engine:
        """The engine.

        Raises:
            ConfigError: if an option is given that the kind has no use for.
        """
        if self.kind not in (None, "local", "processes", "ray"):
            return self._registered(str(self.kind))
        if self.options:
            raise ConfigError(
                f"engine.options holds {', '.join(self.options)}, which is for engines of other packages: write the "
                "keys of this one into engine itself."
            )
        if self.address is not None and self.kind != "ray":
            raise ConfigError(
                f'engine.address is {self.address!r}, but only a Ray cluster has one, and engine.kind is not "ray": '
                'leave the address out, or set engine.kind = "ray" (--engine ray).'
            )
        if self.kind == "local" and self.workers is not None:
            raise ConfigError(
                f'engine.workers is {self.workers}, but engine.kind is "local", which is this process alone: leave '
                'one of them out, or set engine.kind = "processes" (--engine processes).'
            )
        several = self.kind in ("ray", "processes") or self.workers is not None
        if several and (self.device or "cpu") != "cpu":
            raise ConfigError(
                f"engine.device is {self.device!r}, but clients in workers train on processors: a GPU cannot be used "
                "in forked processes, and one process with lanes keeps it busy. Leave engine.workers out and say "
                'engine.kind = "local" (--engine local), or leave the device out.'
            )
        if several and self.precision not in (None, "float32"):
            raise ConfigError(
                f'engine.precision is "{self.precision}", but clients in workers train on processors, which have no '
                "use for it: leave it out."
            )
        if self.client_timeout is not None and (self.kind == "ray" or not several):
            raise ConfigError(
                f"engine.client_timeout is {self.client_timeout:g}, but only a client in a worker process can be "
                "ended: give their number (--workers N), or leave it out."
            )
        options: dict[str, Any] = {name: getattr(self, name) for name in ("low_rank", "channels_last", "compiled")}
        options["drift"] = self.drift is not False
        options |= {} if self.group is None else {"group": self.group}
        if self.kind == "ray":
            options |= {"workers": self.workers, "address": self.address, "lanes": self.lanes or "auto"}
        elif several:
            options |= {"workers": self.workers, "client_timeout": self.client_timeout, "lanes": self.lanes or "auto"}
        else:
            options |= {"lanes": self.lanes or 1, **self._there}
        return build_engine(self.kind or ("processes" if several else "local"), options)

    def _registered(self, kind: str) -> Engine:
        """The engine of another package, with the keys that are given.

        Raises:
            ConfigError: if there is no such engine, or it does not take one of the keys.
        """
        self.check_kind()
        given = self.model_dump(exclude={"kind", "options"}, exclude_none=True)
        return build_engine(kind, {**given, **self.options})

    def pooled(self) -> PooledEngine:
        """The engine for one client that holds all examples."""
        return PooledEngine(**self._there)

    @property
    def _there(self) -> dict[str, Any]:
        """On which device, and in which precision."""
        return {"device": self.device or "cpu", "precision": self.precision or "float32"}


class PrivacySection(_Section):
    """The table [privacy]: the budget of a chain that adds noise, and what else may be released.

    The keys are those of `PrivacyOptions`.
    """

    epsilon: float | None = Field(default=None, gt=0)
    delta: float | None = Field(default=None, gt=0, lt=1)
    example_epsilon: float | None = Field(default=None, gt=0)
    local_epsilon: float | None = Field(default=None, gt=0)
    client_metrics: Literal["off", "released"] = "off"
    randomness: Literal["derived", "system"] | None = None

    @property
    def options(self) -> PrivacyOptions:
        """The options of a run."""
        return PrivacyOptions(**self.model_dump())


class ClockSection(_Section):
    """A virtual clock, and what the clients are like: further keys are fields of `DeviceFleet`.

    preset: a fleet that the fields change; by default one whose clients are always there and answer at once.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    preset: str = "instant"

    def fleet(self) -> DeviceFleet:
        """The clients.

        Raises:
            ConfigError, DataError: for an unknown preset or field, a number out of range, or a bad trace.
        """
        if self.preset not in FLEETS:
            known = " or ".join(f'"{name}"' for name in FLEETS)
            more = "".join(f"; {problem.removesuffix('.')}" for problem in FLEETS.problems)
            raise ConfigError(f'clock.preset must be one of {known}, found "{self.preset}"{more}.')
        return build(DeviceFleet, {**to_numbers(FLEETS[self.preset]), **(self.model_extra or {})})


class Sections(_Section):
    """The whole file."""

    run: RunSection
    data: DataSection
    model: ModelSection
    task: TaskSection = Field(default_factory=TaskSection)
    algorithm: AlgorithmSection = Field(default_factory=AlgorithmSection)
    engine: EngineSection = Field(default_factory=EngineSection)
    clock: ClockSection | None = None
    privacy: PrivacySection | None = None
    attack: AttackSection | None = None
    attack_grid: AttackGridSection = Field(default_factory=AttackGridSection)
    compare: CompareSection = Field(default_factory=CompareSection)
    advise: AdviseSection = Field(default_factory=AdviseSection)
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def privacy_options(self) -> PrivacyOptions:
        """The privacy budget, and what else may be released."""
        return PrivacyOptions() if self.privacy is None else self.privacy.options


def none_as_text(value: Any) -> Any:
    """The value with "none" for nothing, since TOML has no null."""
    if isinstance(value, Mapping):
        return {key: none_as_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [none_as_text(item) for item in value]
    return "none" if value is None else value
