"""`headway verify` on a run's folder, and on an agent's receipts against a server, with certificates and without."""

import json
import shutil
import subprocess
import sys

import pytest
from crash_nodes import free_port
from network import TrustingAdmission
from recorded_run import recorded_run
from tls_server import serving

from headway.federation.http_api import Receipt
from headway.federation.identity.authority import Authority
from headway.federation.identity.node_identity import NodeIdentity
from headway.federation.identity.server_access import AccessOptions, ServerAccess
from headway.federation.spool.receipts_route import receipts_routes

CLIENT = "client-1"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A signed run of two rounds, and the receipts of a client."""
    folder = tmp_path_factory.mktemp("verify")
    with Authority.create(folder / "ca") as authority:
        authority.issue("server", folder / "server", hosts=("127.0.0.1",))
        authority.issue(CLIENT, folder / CLIENT)
    kept: list[Receipt] = []
    recorded_run(folder / "run", 2, identity=NodeIdentity.load(folder / "server"), receipts=kept)
    (folder / "receipts" / "job").mkdir(parents=True)
    for receipt in kept:
        if receipt.client == CLIENT:
            (folder / "receipts" / "job" / f"{receipt.round}.json").write_text(receipt.model_dump_json())
    return folder


def test_a_run_that_agrees(made, headway):
    code, out, err = headway("verify", made / "run", "--authority", made / "server" / "ca.pem")
    assert (code, err) == (0, "")
    assert out.splitlines()[1:] == [
        "Computed again from the updates: rounds 1 to 2.",
        "Signed by 'server'.",
        "All of it agrees.",
    ]


def test_a_process_of_its_own_computes_every_round_again(made):
    command = [sys.executable, "-m", "headway", "verify", str(made / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "Computed again from the updates: rounds 1 to 2." in done.stdout  # with nothing imported beforehand


def test_a_run_that_was_changed(made, headway, tmp_path):
    shutil.copytree(made / "run", tmp_path / "run")
    update = json.loads((tmp_path / "run" / "manifests" / "round-000002.json").read_bytes())["updates"][0]
    path = tmp_path / "run" / "spool" / "blobs" / update["digest"]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, out, _ = headway("verify", tmp_path / "run")
    assert code == 3
    assert "Round 2 is the first that differs: the update of client 'client-0' has other bytes" in out
    code, out, _ = headway("verify", tmp_path / "run", "--json")
    assert code == 3
    assert (json.loads(out)["replayed"], json.loads(out)["differences"][0]["round"]) == ([1], 2)


def test_no_run(made, headway, tmp_path):
    code, _, err = headway("verify", tmp_path / "none")
    assert code == 1
    assert "is no run folder" in err


def test_receipts_over_tls(made, headway):
    access = ServerAccess.of(
        "127.0.0.1", AccessOptions(identity=made / "server", authority=made / "ca"), made / "state"
    )
    try:
        with serving(receipts_routes(access.admission, made / "run"), access.context) as port:
            given = ("--receipts", made / "receipts", "--identity", made / CLIENT)
            code, out, err = headway("verify", f"https://127.0.0.1:{port}", *given)
            assert (code, err) == (0, "")
            assert out.splitlines() == [
                "2 receipts of job 'job': 2 updates were counted, each once.",
                "Signed by 'server'.",
                "All of it agrees.",
            ]
            code, _, err = headway("verify", f"https://127.0.0.1:{port}", "--receipts", made / "receipts")
            assert code == 1
            assert "--identity DIR" in err
    finally:
        access.close()
    code, _, err = headway("verify", f"https://127.0.0.1:{free_port()}", *given)
    assert code == 1
    assert "cannot be reached" in err


def test_receipts_against_the_folder_of_a_run(made, headway, tmp_path):
    code, out, _ = headway("verify", made / "run", "--receipts", made / "receipts", "--identity", made / CLIENT)
    assert code == 0
    assert out.splitlines()[0] == "2 receipts of job 'job': 2 updates were counted, each once."
    code, _, err = headway("verify", tmp_path, "--receipts", made / "receipts")
    assert code == 1
    assert "holds no manifests" in err
    other = json.loads((made / "receipts" / "job" / "0.json").read_text()) | {"client": "another"}
    (tmp_path / "receipts").mkdir()
    shutil.copy(made / "receipts" / "job" / "0.json", tmp_path / "receipts" / "0.json")
    (tmp_path / "receipts" / "1.json").write_text(json.dumps(other))
    code, _, err = headway("verify", made / "run", "--receipts", tmp_path / "receipts")
    assert code == 1
    assert "of several agents, another, client-1" in err


def test_receipts_over_plain_http(made, headway, tmp_path):
    given = ("--receipts", made / "receipts", "--name", CLIENT)
    with serving(receipts_routes(TrustingAdmission(), made / "run")) as port:
        url = f"http://127.0.0.1:{port}"
        code, out, _ = headway("verify", url, *given, "--json")
        assert (code, json.loads(out)["counted"]) == (0, [1, 2])
        code, out, _ = headway("verify", url, "--receipts", made / "receipts", "--name", "client-2")
        assert code == 3
        assert "was accepted, and no manifest up to round 2 has it" in out
        assert f"the receipts are of {CLIENT!r}, and the server shows 'client-2' its own updates alone" in out
        (tmp_path / "receipts").mkdir()
        other = json.loads((made / "receipts" / "job" / "0.json").read_text()) | {"job": "another"}
        (tmp_path / "receipts" / "0.json").write_text(json.dumps(other))
        code, _, err = headway("verify", url, "--receipts", tmp_path / "receipts", "--name", CLIENT)
        assert code == 1
        assert "the server's job is 'job', and the receipts are of 'another'" in err
    with serving(receipts_routes(TrustingAdmission(), tmp_path)) as port:
        code, _, err = headway("verify", f"http://127.0.0.1:{port}", *given)
        assert code == 1
        assert "no round is over yet" in err
    code, _, err = headway("verify", "ftp://127.0.0.1", *given)
    assert code == 1
    assert "no address of a server" in err
    code, _, err = headway("verify", "http://127.0.0.1:port", *given)
    assert code == 1
    assert "cannot be reached: nonnumeric port" in err
    code, _, err = headway("verify", "https://127.0.0.1:1")
    assert code == 2
    assert "--receipts DIR" in err


def test_a_server_that_is_none(made, headway):
    from aiohttp import web

    async def page(request):
        return web.Response(text="<html>")

    with serving([("GET", "/v1/receipts", page)]) as port:
        given = ("--receipts", made / "receipts", "--name", CLIENT)
        code, _, err = headway("verify", f"http://127.0.0.1:{port}", *given)
    assert code == 1
    assert "no headway server?" in err
