"""An attack in a run file."""

import pytest

from headway.attacks import ALIE, AttackedEngine
from headway.core.errors import ConfigError
from headway.experiment.runfile import load_runfile

FILE = """
[run]
rounds = 2
[data]
source = "hospitals"
[model]
name = "logistic"
[algorithm]
chain = [{ stage = "Median", f = 1 }]
trainer = { trainer = "LocalSGD", lr = 0.1 }
sampler = { sampler = "All" }
[attack]
attack = "ALIE"
z = 1.5
clients = ["cleveland"]
knows = "everyone"
"""


def file(tmp_path, text=FILE):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return load_runfile(str(path))


def test_a_run_has_its_attackers(tmp_path):
    runfile = file(tmp_path)
    run = runfile.start()
    assert isinstance(run.engine, AttackedEngine)
    assert run.engine.plan.attack == ALIE(1.5)
    assert run.engine.attackers == ("cleveland",)
    assert len(list(run)) == 2
    run.close()
    again = tmp_path / "again.toml"
    again.write_text(runfile.to_toml())
    assert load_runfile(str(again)).sections.attack.plan() == run.engine.plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"ALIE"', '"ALLIE"'), "attack named 'ALLIE'"),
        (("z = 1.5", "zz = 1.5"), "no option 'zz'"),
        (("z = 1.5", "z = -1.5"), "at least 0"),
        (('["cleveland"]', '["paris"]'), "'paris' is none of the 4 clients"),
        (('["cleveland"]', "4"), "at least one must be honest"),
        (("[attack]", '[clock]\npreset = "instant"\n[attack]'), "a simulated clock"),
    ],
)
def test_a_mistake_is_a_sentence(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        file(tmp_path, FILE.replace(*change)).start()
