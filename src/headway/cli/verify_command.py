"""`headway verify`."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from headway.core.errors import ConfigError
from headway.federation.http_api import RECEIPTS, Problem, Receipt
from headway.federation.identity.node_identity import AUTHORITY, Identity, NodeIdentity, OpenIdentity
from headway.federation.spool.receipts import (
    ReceiptsAnswer,
    ReceiptsCheck,
    ReceiptsVerification,
    extract,
    jobs_of,
    read_receipts,
)
from headway.federation.spool.run_check import RunCheck, RunVerification
from headway.observe.text import console, emit

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class ReceiptOptions:
    """How the server is reached for its manifests.

    identity: the folder of the agent's identity; name: of the agent, at a server of plain HTTP.
    authority: the certificate file of the authority of the server, that of the identity by default.
    """

    identity: Path | None = None
    name: str | None = None
    authority: Path | None = None
    public_authorities: bool = False


def verify_run(run: Path, authority: Path | None, as_json: bool) -> bool:
    """Checks the folder of a server's run and shows the result; whether all agrees.

    Raises:
        RunFolderError: if it is no such folder.
    """
    result = RunCheck(run, authority).check()
    if as_json:
        emit(
            {
                "event": "verify",
                "job": result.name,
                "rounds": result.rounds,
                "replayed": result.replayed,
                "by_digest": result.by_digest,
                "signed_by": result.signed_by,
                "differences": [{"round": each.round, "message": each.message} for each in result.differences],
                "notes": result.notes,
            }
        )
    else:
        _show(_lines_of_run(run, result))
    return not result.differences


def verify_receipts(receipts: Path, url: str, options: ReceiptOptions, as_json: bool) -> bool:
    """Compares an agent's receipts with the server's manifests and shows the result; whether all agrees.

    url: of the server, or the folder of its run.

    Raises:
        ConfigError: for receipts or options that cannot be used; if the server cannot be reached, or refuses.
    """
    found, folder, authority = read_receipts(receipts), options.identity, options.authority
    held, notes = jobs_of(found), list[str]()
    if authority is None and folder is not None:
        authority = folder / AUTHORITY
    if (run := Path(url)).is_dir():
        answers = _answers_of_run(run, found)
    else:
        if (folder is None) == (options.name is None):
            raise ConfigError("name the agent: --identity DIR with its certificate, or --name NAME for plain HTTP.")
        node: Identity = NodeIdentity.load(folder) if folder is not None else OpenIdentity(options.name or "")
        answers = _Manifests(url, node, options.public_authorities).answers()
        notes = _notes_on_caller(node.name, found)
    job = answers[-1].job
    if job not in held:
        raise ConfigError(f"the server's job is {job!r}, and the receipts are of {', '.join(map(repr, held))}.")
    result = ReceiptsCheck(held[job], authority).check(answers)
    result.notes[:0] = notes
    if as_json:
        emit(
            {
                "event": "verify",
                "job": job,
                "receipts": len(held[job]),
                "counted": result.counted,
                "not_counted": [{"round": round_, "reason": reason} for round_, reason in result.not_counted],
                "open": result.open,
                "signed_by": result.signed_by,
                "differences": result.differences,
                "notes": result.notes,
            }
        )
    else:
        _show(_lines_of_receipts(job, len(held[job]), result))
    return not result.differences


def _notes_on_caller(name: str, receipts: list[Receipt]) -> list[str]:
    """A note where a node asks about the receipts of others, of which the server shows it nothing."""
    clients = sorted({receipt.client for receipt in receipts})
    if name in clients:
        return []
    return [
        f"the receipts are of {', '.join(map(repr, clients))}, and the server shows {name!r} its own updates alone."
    ]


def _answers_of_run(run: Path, receipts: list[Receipt]) -> list[ReceiptsAnswer]:
    """The account that the server of a run would give, all parts, from its folder."""
    if len(clients := sorted({receipt.client for receipt in receipts})) > 1:
        raise ConfigError(f"the receipts are of several agents, {', '.join(clients)}: name the folder of one.")
    found, after = list[ReceiptsAnswer](), 0
    while (answer := extract(run, clients[0], after)) is not None:
        found.append(answer)
        if not answer.more:
            return found
        after = int(json.loads(answer.rounds[-1].manifest)["round"])
    raise ConfigError(f"{run} holds no manifests: it is no run of a server, or no round of it is over.")


class _Manifests:
    """The manifests of a server, as one of its nodes sees them."""

    def __init__(self, url: str, identity: Identity, public_authorities: bool) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ConfigError(f"{url!r} is no address of a server: it begins with https:// (or http:// for trials).")
        self.url, self.identity = url.rstrip("/"), identity
        self.context = identity.client_context(public_authorities)

    def answers(self) -> list[ReceiptsAnswer]:
        """The server's account of the updates of the node, all parts.

        Raises:
            ConfigError: if it cannot be reached, or refuses.
        """
        found, after = list[ReceiptsAnswer](), 0
        while True:
            body = self._get(f"{RECEIPTS}?after={after}")
            try:
                answer = ReceiptsAnswer.model_validate_json(body)
                found.append(answer)
                if not answer.more or not answer.rounds:
                    return found
                after = int(json.loads(answer.rounds[-1].manifest)["round"])
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{self.url} answers with something else than manifests: no headway server?"
                ) from error

    def _get(self, path: str, again: bool = True) -> bytes:
        """The body of an answer; a request whose number the server refuses is signed and sent once more."""
        request = urllib.request.Request(self.url + path, headers=self.identity.sign_headers("GET", path))
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self.context) as response:
                body: bytes = response.read()
                return body
        except urllib.error.HTTPError as error:
            with error:
                if again and error.code == 401 and self.identity.catch_up(dict(error.headers)):
                    return self._get(path, again=False)
                try:
                    message = Problem.model_validate_json(error.read()).message
                except ValueError:
                    message = f"it answers with status {error.code}."
            hint = " A relay has none: name its server." if error.code == 404 else ""
            raise ConfigError(f"the server at {self.url} refuses to show its manifests: {message}{hint}") from error
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "reason", error)
            raise ConfigError(f"{self.url} cannot be reached: {getattr(why, 'strerror', None) or why}.") from error


def _lines_of_run(run: Path, result: RunVerification) -> list[str]:
    """The result in sentences."""
    lines = [f"{run}: job {result.name!r}, {_rounds(result.rounds)}."]
    if result.replayed:
        lines.append(f"Computed again from the updates: {_rounds(result.replayed)}.")
    if result.by_digest:
        lines.append(
            f"By digests alone, since the updates, or the model before them, are not kept: {_rounds(result.by_digest)}."
        )
    if result.signed_by:
        lines.append(f"Signed by {result.signed_by!r}.")
    lines += [f"Note: {note}" for note in result.notes]
    if (first := result.first) is None:
        lines.append("All of it agrees.")
        return lines
    where = f"Round {first.round} is the first that differs" if first.round else "The chain differs"
    lines.append(f"{where}: {first.message}.")
    others = [each for each in result.differences if each is not first]
    lines += [f"Round {each.round}: {each.message}." if each.round else f"{each.message}." for each in others]
    return lines


def _lines_of_receipts(job: str, count: int, result: ReceiptsVerification) -> list[str]:
    """The result in sentences."""
    lines = [f"{count} receipts of job {job!r}: {len(result.counted)} updates were counted, each once."]
    lines += [f"Not counted: the update of round {round_}: {reason}." for round_, reason in result.not_counted]
    lines += [f"Still open: the update of round {round_}." for round_ in result.open]
    if result.signed_by:
        lines.append(f"Signed by {result.signed_by!r}.")
    lines += [f"Note: {note}" for note in result.notes]
    lines += [f"Differs: {each}." for each in result.differences]
    return [*lines, *([] if result.differences else ["All of it agrees."])]


def _rounds(rounds: list[int]) -> str:
    """Rounds as ranges.

    >>> _rounds([1, 2, 3, 7])
    'rounds 1 to 3, 7'
    """
    parts, start = list[str](), None
    for place, round_ in enumerate(rounds):
        start = round_ if start is None else start
        if place + 1 == len(rounds) or rounds[place + 1] != round_ + 1:
            parts.append(str(start) if start == round_ else f"{start} to {round_}")
            start = None
    return f"round{'' if len(rounds) == 1 else 's'} {', '.join(parts)}" if parts else "no round"


def _show(lines: list[str]) -> None:
    screen = console()
    for line in lines:
        screen.print(line, soft_wrap=True, markup=False, highlight=False)
