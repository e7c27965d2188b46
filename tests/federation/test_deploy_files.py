"""deploy/: units, image and proxy name commands, options and limits that there are."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
import typer

from headway.cli.main import app
from headway.federation import http_api as api

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMMANDS = typer.main.get_command(app).commands


def check(words):
    """The command exists, and so does each of its options."""
    command, words = COMMANDS[words[0]], words[1:]
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    known = {"--help"} | {option for parameter in command.params for option in parameter.opts}
    missing = [word for word in words if word.startswith("--") and word not in known]
    assert not missing, f"{command.name} has no option {missing}"


def unit(name):
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(DEPLOY / name)
    return parser


@pytest.mark.parametrize(("name", "command"), [("headway-server.service", "serve"), ("headway-agent.service", "join")])
def test_units_start_commands_that_exist(name, command):
    parsed = unit(name)
    words = shlex.split(parsed["Service"]["ExecStart"])
    assert Path(words[0]).name == "headway"
    assert words[1] == command
    check(words[1:])
    assert parsed["Service"]["UMask"] == "0077"  # keys and memory are the user's alone
    assert parsed["Service"]["KillSignal"] == "SIGTERM"
    assert "[Install]" in (DEPLOY / name).read_text()


@pytest.mark.parametrize("path", ["deploy/Containerfile", "deploy/nginx.conf", "docs/deploy.md", "README.md"])
def test_options_that_are_named_exist(path):
    text = re.sub(r"^#", "", (ROOT / path).read_text(), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", "", text)
    named = re.findall(r"`?headway ((?:serve|join|identity|init|schema|relay|status)\b[^`\n]*)", text)
    assert named
    for line in named:
        check(re.sub(r"\.\.\.|\\", "", line).split())


def test_the_image_installs_what_is_there():
    text = (DEPLOY / "Containerfile").read_text()
    (copied,) = re.findall(r"^COPY (.*) /src/$", text, re.MULTILINE)
    assert all((ROOT / name).exists() for name in copied.split())
    assert "USER headway" in text


def test_the_proxy_passes_pieces_and_holds_requests_for_work():
    text = (DEPLOY / "nginx.conf").read_text()
    size = int(re.search(r"client_max_body_size (\d+)m", text).group(1)) << 20
    wait = int(re.search(r"proxy_read_timeout (\d+)s", text).group(1))
    assert size > api.CHUNK
    assert wait > 2 * api.POLL_S
    assert "proxy_request_buffering off" in text
    assert text.count("{") == text.count("}")
