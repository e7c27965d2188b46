"""Too few clients, none at all, or more than there are: refused before the first round, or an empty round."""

import pytest

import headway as hw
from headway.core.errors import ConfigError, HeadwayError
from headway.experiment.population import at_least
from headway.experiment.runfile import load_runfile


def sets(*changes):
    return [part for change in changes for part in ("--set", change)]


UNIFORM = "algorithm.sampler.sampler=Uniform"
BERNOULLI = 'clock.availability={availability="Bernoulli", share=1e-6, every_s=60}'


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([UNIFORM, "algorithm.sampler.count=5"], "Uniform is to draw 5 clients in a round, but the data have 4: lower"),
        (["algorithm.sampler.sampler=RoundRobin", "algorithm.sampler.count=9"], "algorithm.sampler.count to 4 at most"),
        (["algorithm.sampler.sampler=Oort", "algorithm.sampler.count=5"], "Oort is to draw 5 clients in a round"),
        ([UNIFORM, "algorithm.sampler.count=0"], "algorithm.sampler.count must be at least 1, found 0"),
        ([UNIFORM, "algorithm.sampler.count=-1"], "algorithm.sampler.count must be at least 1, found -1"),
        (
            [UNIFORM, "algorithm.sampler.count=2.0"],
            "algorithm.sampler.count must be a whole number, found 2.0: write 2",
        ),
        ([UNIFORM, "algorithm.sampler.share=0"], "algorithm.sampler.share must be "),
        ([UNIFORM, "algorithm.sampler.share=1.5"], "algorithm.sampler.share must be "),
        (
            ["algorithm.sampler.sampler=Fixed", 'algorithm.sampler.clients=["Cleveland"]'],
            "did you mean 'cleveland'?",
        ),
        (["algorithm.sampler.sampler=Fixed", "algorithm.sampler.clients=[]"], "at least one client"),
        (["algorithm.quorum.count=5", "clock.preset=phones"], "lower quorum.count"),
        (["clock.preset=phones", "clock.crash=1.0"], "clock.crash is 1, so that every client fails in every round"),
        ([BERNOULLI, UNIFORM, "algorithm.sampler.count=3"], "a round needs 3 of 4 clients at once, but with clock.ava"),
    ],
)
def test_what_can_be_known_is_refused_before_the_first_round(tmp_path, changes, sentence):
    with pytest.raises(HeadwayError) as caught:
        load_runfile("hospitals", changes).start(tmp_path / "one")
    assert sentence in str(caught.value)
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize(
    "change", ["algorithm.sampler.count=4", "algorithm.sampler.share=1.0", "algorithm.sampler.share=0.01"]
)
def test_all_clients_or_one_are_enough(headway, change):
    assert headway("run", "hospitals", "--rounds", "1", *sets(UNIFORM, change))[0] == 0


def test_an_empty_round_is_a_round(headway, tmp_path):
    poisson = sets("algorithm.sampler.sampler=Poisson", "algorithm.sampler.rate=0.01")
    code, out, _ = headway("run", "hospitals", "--rounds", "10", *poisson, "--out", "few")
    assert code == 0
    assert "the round is empty: no client was drawn, so nothing was learned" in out
    assert "8 of 10 rounds counted no client." in out
    assert headway("report", "few")[0] == 0
    page = (tmp_path / "few" / "report.html").read_text()
    assert "8 of 10" in page
    assert "An empty round counts no client" in page
    code, out, _ = headway(
        "run", "hospitals", "--rounds", "2", *sets("algorithm.sampler.sampler=Poisson", "algorithm.sampler.rate=1e-9")
    )
    assert "2 of 2 rounds counted no client. Nothing was learned: this is the initial model." in out


def test_clients_that_are_never_there_together_end_with_the_time(headway, tmp_path):
    rows = ["client,start_s,stop_s", "cleveland,0,10", "hungary,20,30", "switzerland,40,50", "va,60,70"]
    (tmp_path / "never.csv").write_text("\n".join(rows) + "\n")
    trace = f'clock.availability={{availability="Trace", file="{tmp_path}/never.csv"}}'
    code, _, err = headway("run", "hospitals", *sets(trace, UNIFORM, "algorithm.sampler.count=2"))
    assert (code, "1 min of simulated time" in err) == (1, True)
    repeated = f'clock.availability={{availability="Trace", file="{tmp_path}/never.csv", repeat_s=100000000}}'
    code, _, err = headway("run", "hospitals", *sets(repeated, UNIFORM, "algorithm.sampler.count=2"))
    assert (code, "these are too few for a round" in err) == (1, True)


def test_shares_that_do_for_a_round_are_not_refused():
    for share, count in ((0.3, 3), (0.01, 1), (1.0, 4)):
        change = f'clock.availability={{availability="Bernoulli", share={share}}}'
        run = load_runfile("hospitals", [change, UNIFORM, f"algorithm.sampler.count={count}"], rounds=1).start()
        assert len(list(run)) == 1
        run.close()


def test_the_chance_of_enough_clients():
    assert at_least(3, 4, 0.5) == pytest.approx(5 / 16)
    assert at_least(1, 2, 1e-9) == pytest.approx(2e-9)
    assert at_least(50_000, 100_000, 0.5) == pytest.approx(0.5, abs=0.01)
    assert at_least(10, 100_000, 0.5) == pytest.approx(1.0)


def test_it_is_refused_in_python_too():
    data = hw.data.load("hospitals")
    task = hw.Task(model=lambda: __import__("torch").nn.Linear(35, 2))
    algorithm = hw.recipes.fedavg(sampler=hw.Uniform(count=9))
    with pytest.raises(ConfigError, match="is to draw 9 clients in a round, but the data have 4"):
        hw.Run(algorithm, data, task, rounds=1)
