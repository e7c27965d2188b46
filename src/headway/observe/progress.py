"""Progress with rate and ETA: a live bar on a terminal, about ten plain lines when piped."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from headway.numerics.units import time_text


class Meter:
    """Counts steps towards a total.

    first: steps that were done before (a resumed run); they do not count for the rate.
    """

    def __init__(self, console: Console, what: str, total: int, first: int = 0) -> None:
        self.console, self.what, self.total, self.done, self.first = console, what, total, first, first
        self.begun = time.perf_counter()
        self._last_tenth = first * 10 // max(total, 1)
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
            # drawn only when something happened, and standard output left alone: a debugger's prompt stays usable
            self._bar = Progress(
                *columns,
                console=console,
                transient=True,
                auto_refresh=False,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task(f"{what} {first}/{total}", total=total, completed=first)

    def __enter__(self) -> Meter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, news: str = "") -> None:
        """One more is done."""
        self.reach(self.done + 1, news)

    def reach(self, done: int, news: str = "") -> None:
        """So many are done, of which the last may be beyond the total."""
        before, self.done = self.done, min(done, self.total)
        if self.done == before and self.done < self.total:
            return
        spent = time.perf_counter() - self.begun
        rate = max(self.done - self.first, 1) / max(spent, 1e-9)
        pace = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
        left = (self.total - self.done) / rate
        line = f"{self.what} {self.done}/{self.total}  {news}  {pace}  ETA {time_text(round(left))}"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, description=line, refresh=True)
        elif self.done * 10 // self.total > self._last_tenth or self.done == self.total:
            self._last_tenth = self.done * 10 // self.total
            self.console.print(line)

    def say(self, sentence: str) -> None:
        """A line that stays."""
        self.console.print(sentence)
