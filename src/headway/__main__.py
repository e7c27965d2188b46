"""The program `headway`: signals are taken before anything else is imported."""

from __future__ import annotations

from headway.core import stopping


def main() -> None:
    """The entry point of the program."""
    stopping.install()
    from headway.cli.main import main as command_line

    try:
        command_line()
    except SystemExit as end:
        if stopping.requested():  # all is closed by now, and taking torch apart can take seconds
            stopping.leave(end.code)
        raise


if __name__ == "__main__":
    main()
