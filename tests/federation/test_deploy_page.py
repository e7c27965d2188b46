"""docs/deploy.md: the commands at its beginning lead from nothing to two agents that train on their own tables."""

import csv
import random
import re
import shlex
import tomllib
from pathlib import Path

from processes import Processes

from headway.core.registry import build
from headway.federation.agent.agent_data import AgentData
from headway.federation.agent.agent_file import AgentFile
from headway.federation.agent.local_policy import LocalPolicy
from headway.federation.federation_file import FederationSection
from headway.observe.journal import rounds_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/deploy.md").read_text()
MOST = 10  # commands


def commands():
    """The commands of the first section, as words."""
    section = PAGE.split("\n## ")[1]
    blocks = re.findall(r"^```console\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    return [shlex.split(line, comments=True) for line in "".join(blocks).splitlines() if line.strip()]


def tables(folder):
    """Two hospitals whose columns are in another order, and whose patients differ."""
    draw = random.Random(0)
    for name, order, mean in (("a", (0, 1, 2, 3), 60), ("b", (3, 1, 0, 2), 50)):
        rows = []
        for _ in range(80):
            age, sex = round(draw.gauss(mean, 10)), draw.choice(("f", "m"))
            dose = draw.choice(("", "1.5", "2", "4"))
            rows.append((age, sex, dose, "yes" if age + 10 * (sex == "m") + draw.gauss(0, 5) > mean + 5 else "no"))
        with (folder / f"hospital-{name}.csv").open("w", newline="") as file:
            header = ("age", "sex", "dose", "ill")
            csv.writer(file).writerows([[each[place] for place in order] for each in (header, *rows)])


def test_the_path_has_fewer_than_ten_commands_and_begins_with_the_installation():
    assert commands()[0] == ["pip", "install", "headway"]
    assert len(commands()) < MOST


def test_the_tables_of_the_page_are_taken(tmp_path):
    shown = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(shown) == 2
    section = FederationSection.model_validate(tomllib.loads(shown[0])["federation"])
    assert section.clients == ["hospital-a", "hospital-b"]
    (tmp_path / "agent.toml").write_text(shown[1])
    (tmp_path / "patients.csv").write_text("age_in_years,ill\n40,yes\n")
    file = AgentFile.of(tmp_path / "agent.toml")
    assert AgentData.of(file).form.columns == {"age": "age_in_years"}
    assert build(LocalPolicy, file.policy) == LocalPolicy(clip=1.0, telemetry=False)
    assert (file.limits.threads, file.limits.nice) == (4, 10)


def test_the_commands_lead_to_two_agents_that_train_on_their_own_tables(tmp_path, headway):
    tables(tmp_path)
    with Processes(tmp_path) as processes:
        address, agents, server = "", [], None
        for words in commands()[1:]:
            assert words[0] == "headway"
            background = words[-1] == "&"
            words = [word.replace("https://localhost:8443", address) for word in words[1:] if word != "&"]
            if words[0] == "serve":  # a port that is free here; all else is as it stands
                server = processes.start("server", *words, "--port", "0")
                address = "https://localhost:" + server.url().rpartition(":")[2]
            elif words[0] == "join":
                agents.append(processes.start(words[words.index("--identity") + 1], *words))
                assert background or len(agents) == 2
            else:
                code, out, err = headway(*words)
                assert code == 0, out + err
        assert [agent.wait() for agent in agents] == [0, 0]
        assert server.wait() == 0
    (journal,) = tmp_path.rglob("journal.sqlite")
    rounds = tomllib.loads((tmp_path / "federation.toml").read_text())["run"]["rounds"]
    assert rounds_of(journal) == list(range(1, rounds + 1))
    assert headway("report", journal.parent)[0] == 0
    assert "hospital-a" in (journal.parent / "report.html").read_text()
    assert headway("export", journal.parent)[0] == 0
