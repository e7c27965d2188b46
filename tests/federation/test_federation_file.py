"""The file of a federation: its jobs, and the sentences about what is wrong in it."""

from dataclasses import replace
from pathlib import Path

import pytest

from headway.core.errors import ConfigError
from headway.experiment.identity import described
from headway.federation.federation_file import load_federation
from headway.federation.server_job import JobOptions
from headway.privacy.options import PrivacyOptions

FILE = """
[run]
rounds = 4
seed = 3
[federation]
clients = ["b", "a"]
[model]
name = "mlp"
hidden = [4]
[algorithm]
recipe = "scaffold"
[algorithm.trainer]
lr = 0.05
batch_size = 8
[data]
kind = "table"
target = "sick"
classes = ["no", "yes"]
columns = [{ name = "age", kind = "numeric" }, { name = "sex", kind = "category", values = ["f", "m"] }]
"""


def load(tmp_path, text, **options):
    path = tmp_path / "study.toml"
    path.write_text(text)
    return load_federation(str(path), **options)


def waited_for(job):
    options = job.network_options(Path("sums"))
    return options.expected, options.min_clients


def test_a_file_is_a_job(tmp_path):
    file = load(tmp_path, FILE)
    (job,) = file.jobs
    assert (job.name, job.rounds, job.seed) == ("study", 4, 3)
    assert job.data.expected == ("a", "b")
    assert job.data.class_names == ("no", "yes")
    assert waited_for(job) == ({"a", "b"}, 2)
    offered = job.description("x")
    assert (offered.job, offered.population, offered.seed) == ("x", 2, 3)
    assert offered.model == {"name": "mlp", "hidden": [4]}
    assert offered.data_schema["target"] == "sick"
    assert load(tmp_path, FILE, rounds=9).jobs[0].rounds == 9


@pytest.mark.parametrize(
    ("given", "held"),
    [({}, 45), ({"lease_s": 60.0}, 30), ({"poll_s": 10.0}, 10), ({"lease_s": 900.0, "poll_s": 400.0}, 400)],
)
def test_a_waiting_agent_asks_again_before_its_lease_ends(tmp_path, given, held):
    (job,) = load(tmp_path, FILE).jobs
    options = JobOptions(**given)
    assert options.held_s == held
    assert replace(job, options=options).description("x").poll_s == held


def test_a_poll_that_outlasts_half_of_the_lease_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"at most 45 s, half of lease_s.*found 50 s"):
        JobOptions(poll_s=50.0)
    with pytest.raises(ConfigError, match="at most 3600 s"):
        JobOptions(lease_s=1e6, poll_s=4000.0)
    with pytest.raises(ConfigError, match="poll_s"):
        load(tmp_path, FILE.replace("[federation]", "[federation]\npoll_s = 0.5"))


def test_the_text_in_the_run_folder_is_the_same_job(tmp_path):
    (job,) = load(tmp_path, FILE).jobs
    (again,) = load(tmp_path, job.config).jobs
    assert again.name == job.name
    assert described(again.algorithm) == described(job.algorithm)
    assert again.data.fingerprint() == job.data.fingerprint()


def test_the_privacy_budget_is_that_of_the_job(tmp_path):
    table = '[privacy]\nepsilon = 4.0\ndelta = 1e-6\nclient_metrics = "released"\n'
    (job,) = load(tmp_path, FILE + table).jobs
    assert job.options.privacy == PrivacyOptions(epsilon=4.0, delta=1e-6, client_metrics="released")
    assert load(tmp_path, job.config).jobs[0].options == job.options


def test_several_jobs_differ_in_what_their_tables_say(tmp_path):
    jobs = load(tmp_path, FILE + '[[jobs]]\n[[jobs]]\nrun = { name = "long", rounds = 9 }\n').jobs
    assert [(job.name, job.rounds) for job in jobs] == [("study-1", 4), ("long", 9)]
    with pytest.raises(ConfigError, match="two jobs have the name 'x'"):
        load(tmp_path, FILE + '[[jobs]]\nrun = { name = "x" }\n[[jobs]]\nrun = { name = "x" }\n')


def test_any_client_may_join_where_none_is_listed(tmp_path):
    (job,) = load(tmp_path, FILE.replace('clients = ["b", "a"]', "")).jobs
    assert job.data.population is None
    assert waited_for(job) == (frozenset(), 2)
    (job,) = load(tmp_path, FILE.replace('"a"]', '"a"]\nmin_clients = 1')).jobs
    assert waited_for(job) == (frozenset(), 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rounds = 4", "", "needs 'run.rounds'"),
        ("rounds = 4", "rounds = 4\nroundz = 4", "unknown key 'run.roundz'"),
        ('clients = ["b", "a"]', 'clients = ["a", "a"]', "names a client twice"),
        ('clients = ["b", "a"]', "clients = []", "federation.clients is empty"),
        ('clients = ["b", "a"]', 'memory = "2 cups"', "federation.memory must be a number of bytes"),
        ('"a"]', '"a"]\nmin_clients = 3', "min_clients is 3, but federation.clients lists 2"),
        ('"a"]', '"a"]\nrelays = ["a"]', "'a' is in federation.relays and in federation.clients"),
        ('"a"]', '"a"]\nwait_limit_s = -1.0', "federation.wait_limit_s must be"),
        ("seed = 3", 'seed = 3\nimports = ["mine"]', "installed on their own machine"),
        ("seed = 3", "seed = 3\ncheckpoint_every = 5", "checkpoint_every is 1 at a server"),
        ('kind = "table"', 'kind = "tables"', r"the schema \[data\] needs kind"),
        ('recipe = "scaffold"', 'recipe = "scafold"', "no recipe named 'scafold'"),
        ('name = "mlp"', 'name = "nothing"', "nothing"),
    ],
)
def test_a_mistake_is_named(tmp_path, old, new, message):
    assert old in FILE
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, FILE.replace(old, new, 1))


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no\.toml cannot be read"):
        load_federation(str(tmp_path / "no.toml"))
