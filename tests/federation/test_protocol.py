"""docs/protocol.md: it names all that the interface has, and a client written from it takes part in a federation."""

import ast
import threading
from pathlib import Path

import plain_client
import pytest
import torch
from network import Network
from plain_client import PlainClient
from toys import blobs, linear_task

import headway as hw
from headway.federation import http_api as api
from headway.federation.identity import request_signature
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool
from headway.protocol import wire

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
MODELS = [each for each in vars(api).values() if isinstance(each, type) and issubclass(each, api.Body)]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_the_page_names_every_field(model):
    missing = [name for name in model.model_fields if f"`{name}`" not in PAGE]
    assert not missing


def test_the_page_names_every_path_and_header():
    paths = [value for name, value in vars(api).items() if name.isupper() and str(value).startswith("/")]
    headers = [value for value in vars(request_signature).values() if str(value).startswith("Headway-")]
    assert len(paths) > 12
    assert len(headers) == 7
    assert not [each for each in (*paths, *headers, api.OFFSET) if each not in PAGE]


def test_the_page_has_the_codes_of_kinds_and_number_types():
    flat = " ".join(PAGE.split())
    assert ", ".join(wire.KINDS) in flat
    assert ", ".join(str(dtype).removeprefix("torch.") for dtype in wire.DTYPES) in flat


def test_the_plain_client_imports_nothing_of_headway():
    tree = ast.parse(Path(plain_client.__file__).read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert sorted(names) == ["hashlib", "http.client", "json", "numpy", "struct"]
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


def test_a_client_written_from_the_page_takes_part(tmp_path):
    data, task, rounds = blobs((7, 12, 5)), linear_task(dtype="float64"), 3
    algorithm = hw.recipes.recipe("fedavg", trainer=hw.LocalSGD(lr=0.1, batch_size=64, epochs=2))
    local = hw.Run(algorithm, data, task, rounds=rounds)
    expected = list(local)
    network = Network.of(
        algorithm, task, Spool(tmp_path / "spool"), EventLog(tmp_path), rounds, expected=frozenset(data.clients)
    )
    network.join(algorithm, task, data, data.clients[1:])
    mine = data.to(torch.float64).train_of("client-0")
    client = PlainClient(*network.server.address, "client-0", mine.inputs.numpy(), mine.targets.numpy(), 3, 0.1, 2)
    ended = []
    thread = threading.Thread(target=lambda: ended.append(client.run()), daemon=True)
    thread.start()
    run = hw.Run(algorithm, data, task, rounds=rounds, engine=network.engine)
    try:
        reports = list(run)
        network.assignments.set_state("finished")
        thread.join(60)
    finally:
        run.close()
        network.close()
        client.connection.close()
    assert ended == ["finished"]
    assert [report.count("counted") for report in reports] == [3] * rounds
    torch.testing.assert_close(run.state.params, local.state.params, rtol=1e-9, atol=1e-12)
    assert reports[-1].train_loss == pytest.approx(expected[-1].train_loss)
