"""The file of an agent."""

import pytest

from headway.core.errors import ConfigError, DataError
from headway.federation.agent.agent_file import AgentFile, AgentLimits


def test_sections_are_read(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text(
        '[data]\nsource = "a.csv"\n[model]\nname = "mine:net"\n[task]\nloss = "cross_entropy"\n'
        "[policy]\nsecure_sum = true\n[limits]\nthreads = 2\nnice = 10\n"
    )
    file = AgentFile.of(path)
    assert file.data == {"source": "a.csv"}
    assert (file.model, file.task) == ({"name": "mine:net"}, {"loss": "cross_entropy"})
    assert file.policy == {"secure_sum": True}
    assert file.limits == AgentLimits(threads=2, nice=10)
    assert file.folder == tmp_path


def test_any_other_text_names_the_data():
    assert AgentFile.of("hospitals:va").data == {"source": "hospitals:va"}
    assert AgentFile.of("a.csv").limits == AgentLimits()


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ('[dat]\nsource = "a"', "did you mean 'data'"),
        ('data = "a.csv"', "not a section"),
        ("[model]", r"needs \[data\]"),
        ("[data]\nsource = 1", "needs .data. with source"),
        ('[data]\nsource = "a"\n[limits]\nthread = 1', "did you mean 'threads'"),
        ('[data]\nsource = "a"\n[limits]\nthreads = 0', "between 1 and 1024"),
        ('[data]\nsource = "a"\n[limits]\nnice = 40', "between 0 and 19"),
        ("[data", "not TOML"),
    ],
)
def test_what_is_wrong_is_a_sentence(tmp_path, text, needed):
    (tmp_path / "agent.toml").write_text(text)
    with pytest.raises(ConfigError, match=needed):
        AgentFile.of(tmp_path / "agent.toml")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        AgentFile.of(tmp_path / "none.toml")
