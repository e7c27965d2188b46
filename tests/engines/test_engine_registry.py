"""Engines by name: Headway's own, and one that a user registers and a run file chooses."""

import pytest
from toys import blobs, linear_task

import headway as hw
from headway.core.errors import ConfigError
from headway.engines import ENGINES, Engine, build_engine, register_engine
from headway.experiment.runfile_schema import EngineSection


@pytest.fixture(autouse=True)
def restored():
    with ENGINES.restored():
        yield


class Echo(Engine):
    """An engine that counts its asks and leaves them to another."""

    def __init__(self, drift=True, depth=1):
        self.inner, self.depth, self.asks = hw.LocalEngine(drift=drift), depth, 0

    @property
    def facts(self):
        return self.inner.facts

    @property
    def keeps_memory(self):
        return self.inner.keeps_memory

    def open(self, job):
        self.inner.open(job)

    def clients(self):
        return self.inner.clients()

    def ask(self, ask):
        self.asks += 1
        return self.inner.ask(ask)

    def close(self):
        self.inner.close()


def test_an_engine_of_ones_own_is_chosen_by_its_name_and_given_its_keys():
    register_engine("echo")(Echo)
    engine = EngineSection(kind="echo", drift=False, options={"depth": 3}).engine()
    assert isinstance(engine, Echo)
    assert (engine.depth, engine.inner.options.drift) == (3, False)
    made, own = (
        hw.Run(
            hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1)),
            blobs(),
            linear_task(),
            rounds=1,
            engine=each,
        )
        for each in (hw.LocalEngine(drift=False), engine)
    )
    assert [r.count("counted") for r in made] == [r.count("counted") for r in own]
    assert engine.asks > 1
    assert (made.state.params == own.state.params).all()


def test_own_engines_are_registered_by_their_names():
    assert {"local", "processes", "ray"} <= set(ENGINES)
    assert isinstance(build_engine("local", {"lanes": 2}), hw.LocalEngine)


def test_unknown_names_and_keys_are_refused():
    register_engine("echo")(Echo)
    with pytest.raises(ConfigError, match="no engine named 'lokal'"):
        build_engine("lokal", {})
    with pytest.raises(ConfigError, match='must be one of "local" or "processes" or "ray" or "echo", found "spark"'):
        EngineSection(kind="spark").engine()
    with pytest.raises(ConfigError, match=r"engine\.address is given, but the engine 'echo' takes none"):
        EngineSection(kind="echo", address="auto").engine()
    with pytest.raises(ConfigError, match=r"engine\.options holds depth"):
        EngineSection(options={"depth": 3}).engine()
    with pytest.raises(ConfigError, match="a class derived from headway"):
        register_engine("no")(dict)


def test_a_clock_refuses_an_engine_without_a_plan():
    with pytest.raises(ConfigError, match="needs an engine that trains by an execution plan, found Echo"):
        hw.ClockEngine(Echo())
