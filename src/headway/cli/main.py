"""The command line.  Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Optional

from headway.core import stopping

if __name__ == "__main__":
    stopping.install()  # before anything that takes time

import typer

from headway import __version__
from headway.cli.federation_commands import add_commands
from headway.cli.table_options import Categories, Drop, Gaps, Target, TargetTask
from headway.core.errors import HeadwayError

# torch's threads wait for each other spinning, by default for so long that a busy machine comes to a halt
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

app = typer.Typer(
    name="headway",
    help="Federated learning for clients that are not alike, not reliable and not trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

File = Annotated[str, typer.Argument(metavar="FILE|NAME", help="A run file (.toml), or a packaged example's name.")]
Sets = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", metavar="PATH=VALUE", help="Change a value, e.g. algorithm.ECGR.beta=0.1; repeatable."),
]
Seed = Annotated[Optional[int], typer.Option(min=0, help="The run's seed, instead of the file's.")]  # noqa: UP045
Rounds = Annotated[Optional[int], typer.Option(min=1, help="How many rounds, instead of the file's.")]  # noqa: UP045
Workers = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(min=1, help="Train in so many workers; their number changes no result."),
]
Where = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--engine", metavar="KIND", help="local, processes or ray: where clients train."),
]
Address = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="HOST:PORT|auto", help="The Ray cluster, with --engine ray; one of this machine by default."),
]
Watch = Annotated[
    bool, typer.Option("--watch", help="Show the run on a live page of this machine; prints its address.")
]
WatchPort = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        metavar="PORT", min=1, max=65535, help="The port of the live page, with --watch; a free one by default."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output, and nothing else.")]
Out = Annotated[Optional[Path], typer.Option(help="Where to write; a new place by default.")]  # noqa: UP045


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    context.obj = debug
    if version:
        typer.echo(f"headway {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _engine(workers: int | None, address: str | None, **options: str | None) -> list[str]:
    """The options about the engine, as changes of the run file."""
    options |= {"workers": None if workers is None else str(workers), "address": address}
    return [f"engine.{name}={value}" for name, value in options.items() if value is not None]


def _port(watch: bool, port: int | None) -> int | None:
    """The port of the live page, 0 for a free one; `None` without a page."""
    return port if port is not None else 0 if watch else None


@app.command()
def run(
    file: File,
    set_: Sets = None,
    seed: Seed = None,
    rounds: Rounds = None,
    workers: Workers = None,
    lanes: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="N|auto", help="Clients that train side by side; auto measures what is fastest."),
    ] = None,
    device: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="cpu|cuda|cuda:N", help="Train on a GPU; its precision is engine.precision."),
    ] = None,
    engine: Where = None,
    address: Address = None,
    out: Out = None,
    watch: Watch = False,
    watch_port: WatchPort = None,
    json: Json = False,
) -> None:
    """Train by a run file, and keep the run in a folder."""
    from headway.cli.run_command import run_file

    run_file(
        file,
        [*(set_ or []), *_engine(workers, address, kind=engine, lanes=lanes, device=device)],
        seed,
        rounds,
        out,
        json,
        _port(watch, watch_port),
    )


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    rounds: Rounds = None,
    epsilon: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Another privacy budget, instead of the file's; the ledger writes it down."),
    ] = None,
    workers: Workers = None,
    address: Address = None,
    watch: Watch = False,
    watch_port: WatchPort = None,
    json: Json = False,
) -> None:
    """Go on with a run that was stopped, from its last checkpoint, to the same result."""
    from headway.cli.run_command import resume_folder

    sets = [*_engine(workers, address), *([] if epsilon is None else [f"privacy.epsilon={epsilon}"])]
    resume_folder(folder, sets, rounds, json, _port(watch, watch_port))


@app.command()
def explain(file: File, set_: Sets = None) -> None:
    """Show an algorithm stage by stage: where it runs, what the server sees."""
    from headway.cli.explain_command import explain_file

    explain_file(file, set_ or [])


@app.command()
def partition(
    file: File,
    set_: Sets = None,
    seed: Seed = None,
    out: Annotated[Optional[Path], typer.Option(help="The picture to write, .png; a new one by default.")] = None,  # noqa: UP045
    json: Json = False,
) -> None:
    """Show who holds what and how alike the clients are, in numbers and as a picture; nothing is trained."""
    from headway.cli.partition_command import partition_file

    partition_file(file, set_ or [], seed, out, json)


@app.command()
def advise(
    file: File,
    set_: Sets = None,
    seed: Seed = None,
    quick: Annotated[bool, typer.Option("--quick", help="Look at the data only; train nothing.")] = False,
    untrusted_server: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--untrusted-server/--trusted-server", help="Whether it may see single updates."),
    ] = None,
    untrusted_clients: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--untrusted-clients/--trusted-clients", help="Whether they may send what harms."),
    ] = None,
    unreliable: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0, max=1, help="The share of clients that are late or lost in a round."),
    ] = None,
    uplink: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="SPEED", help="What a client can send, e.g. 1MB/s or 20Mbit/s."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write the run file with the advice in it there."),
    ] = None,
    json: Json = False,
) -> None:
    """Show what constrains a federation most, and what to try and compare."""
    from headway.cli.advise_command import advise_file

    constraints = (untrusted_server, untrusted_clients, unreliable, uplink)
    advise_file(file, set_ or [], seed, quick, constraints, out, json)


@app.command()
def compare(
    files: Annotated[list[str], typer.Argument(metavar="FILE|NAME...", help="One run file, or several.")],
    methods: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Recipes or [methods] of the file, separated by commas."),
    ] = None,
    seeds: Annotated[Optional[int], typer.Option(min=1, help="How many seeds: 0, 1, 2, ...")] = None,  # noqa: UP045
    set_: Sets = None,
    rounds: Rounds = None,
    target: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="The value whose rounds and bytes are counted; 95 % of the best by default."),
    ] = None,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Processes; the numbers do not depend on it."),
    ] = None,
    budget_bytes: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="SIZE", help="Also compare at equal bytes, e.g. 50MB; by default what the thriftiest sent."
        ),
    ] = None,
    budget_time: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="TIME",
            help="Also compare at equal simulated time, e.g. 2h or 30min; by default when the first run ends.",
        ),
    ] = None,
    bounds: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option("--bounds/--no-bounds", help="Also train each client alone, and one that holds all examples."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The comparison's folder: a new one, or one that was stopped, which is gone on with."),
    ] = None,
    json: Json = False,
) -> None:
    """Compare methods on the same data, partitions and initial models, over several seeds."""
    from headway.cli.compare_command import Options, compare_files

    chosen = None if methods is None else [name.strip() for name in methods.split(",") if name.strip()]
    options = Options(seeds, target, budget_bytes, budget_time, bounds, workers, out, json)
    compare_files(files, chosen, set_ or [], rounds, options)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders and comparison folders.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE.html", help="Where to write; report.html in the folder by default."),
    ] = None,
    json: Json = False,
) -> None:
    """Write one HTML page about runs and comparisons, to look at in a browser."""
    from headway.cli.report_command import report_runs

    report_runs(runs, out, json)


@app.command()
def init(
    data: Annotated[Path, typer.Option(help="A .csv, .tsv, .parquet or .npz file.")],
    client_column: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The column with the client of each row."),
    ] = None,
    target: Target = None,
    task: TargetTask = None,
    drop: Drop = None,
    categories: Categories = None,
    gaps: Gaps = None,
    separator: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What separates cells, such as ';', if the guess is wrong."),
    ] = None,
    decimal: Annotated[Optional[str], typer.Option(help="The decimal mark, '.' or ','.")] = None,  # noqa: UP045
    encoding: Annotated[Optional[str], typer.Option(help="Of a text file, such as cp1252.")] = None,  # noqa: UP045
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The file to write; run.toml by default, federation.toml with --federation."),
    ] = None,
    federation: Annotated[
        bool,
        typer.Option("--federation", help="Write a server's file, for clients with tables of their own like this one."),
    ] = False,
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="cross-device or cross-silo: defaults for that kind of federation."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Write a run file for your own data, or the server's file of a federation."""
    from headway.cli.init_command import InitOptions, init_file
    from headway.cli.init_federation import init_federation

    words = None if gaps is None else tuple(gaps)
    given = InitOptions(
        client_column, target, task, tuple(drop or ()), tuple(categories or ()), words, separator, decimal, encoding
    )
    if federation:
        init_federation(data, given, out or Path("federation.toml"), force, preset)
    else:
        init_file(data, given, out or Path("run.toml"), force, preset)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Out = None,
    best: Annotated[bool, typer.Option("--best", help="The best model instead of the last.")] = False,
    client: Annotated[
        str | None, typer.Option("--client", help="The model of this client, with the part that stays there.")
    ] = None,
) -> None:
    """Write a run's model as a plain PyTorch state dict (safetensors)."""
    from headway.cli.export_command import export_model

    export_model(folder, out, best, client)


@app.command("list")
def list_() -> None:
    """List what can be named: examples, recipes, stages, models, data, partitions, shifts."""
    from headway.cli.list_command import list_names

    list_names()


add_commands(app)


def main() -> None:
    """The entry point: a user's mistake is one sentence and a non-zero exit, never a traceback.

    SIGTERM is taken like Ctrl-C, so that what runs is kept and no worker is left behind.
    """
    with stopping.installed():
        try:
            _main()
        except stopping.Stopped as stopped:
            typer.echo(f"Stopped by {signal.Signals(stopped.number).name}.", err=True)
            sys.exit(stopped.exit_code)


def _main() -> None:
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter gets its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if dashed := [given for given in sys.argv[1:] if given.startswith("-") and given.endswith(".toml")]:
        sys.exit(f"error: {dashed[0]} looks like an option: a file whose name starts with - is named ./{dashed[0]}")
    debug = "--debug" in sys.argv  # wherever it stands, before or after the command
    if debug:
        sys.argv.remove("--debug")
    try:
        if "--json" in sys.argv:
            from headway.observe.text import json_alone

            with json_alone():
                app()
        else:
            app()
    except (HeadwayError, OSError) as error:
        if debug:
            raise
        typer.secho("error: ", fg=typer.colors.RED, bold=True, err=True, nl=False)
        typer.echo(str(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
