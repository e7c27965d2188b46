"""examples/embed_agent.py: an agent inside a program of one's own takes part in a federation."""

from pathlib import Path

from processes import Processes

from headway.federation.identity.authority import Authority
from headway.observe.journal import rounds_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "embed_agent.py"
FEDERATION = """
[run]
rounds = 3
[federation]
clients = ["mine"]
[data]
kind = "arrays"
shape = [8]
classes = ["0", "1"]
[model]
name = "mlp"
hidden = [16]
[algorithm]
recipe = "fedavg"
[algorithm.trainer]
lr = 0.05
batch_size = 16
epochs = 1
"""


def test_the_program_takes_part_with_its_own_tensors(tmp_path):
    code = [
        line for line in EXAMPLE.read_text().splitlines() if line.strip() and not line.startswith(('"""', "python"))
    ]
    assert len(code) <= 20
    (tmp_path / "federation.toml").write_text(FEDERATION)
    with Authority.create(tmp_path / "ca") as authority:
        authority.issue("server", tmp_path / "server", ("localhost",))
        authority.issue("mine", tmp_path / "mine")
    with Processes(tmp_path) as processes:
        server = processes.start("server", "serve", "federation.toml", "--port", "0", "--out", "run")
        program = processes.start("program", EXAMPLE, server.url(), "mine", program=True)
        assert (program.wait(), server.wait()) == (0, 0)
    assert program.text.strip().endswith("finished")
    assert rounds_of(tmp_path / "run" / "journal.sqlite") == [1, 2, 3]


def test_a_client_whose_classes_have_another_order_is_refused_with_both_sides(tmp_path, headway):
    (tmp_path / "federation.toml").write_text(FEDERATION.replace('["0", "1"]', '["1", "0"]'))
    with Authority.create(tmp_path / "ca") as authority:
        authority.issue("server", tmp_path / "server", ("localhost",))
        authority.issue("mine", tmp_path / "mine")
    with Processes(tmp_path) as processes:
        server = processes.start("server", "serve", "federation.toml", "--port", "0", "--out", "run")
        program = processes.start("program", EXAMPLE, server.url(), "mine", program=True)
        assert program.wait() != 0
        assert "the classes 0, 1, and the schema of the federation has 1, 0" in program.text
        server.shows("the classes 0, 1, and the schema of the federation has 1, 0")
