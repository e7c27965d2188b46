"""An event log whose server ends at an event or beside verdicts, as far as a run in this process can tell."""

from headway.federation.spool.event_log import EventLog


class Crash(BaseException):
    """The end of a process, as far as a run in this one can tell."""


class CrashingLog(EventLog):
    """Ends the run when an event of this number is on disk, or "before N" or "after N" the verdicts of round N are."""

    crash_at: int | str = 0

    def append(self, event):
        number = super().append(event)
        self.pass_by(number)
        return number

    def record_verdicts(self, verdicts):
        round_ = next(iter(verdicts.values())).round if verdicts else None
        self.pass_by(f"before {round_}")
        super().record_verdicts(verdicts)
        self.pass_by(f"after {round_}")

    def pass_by(self, place):
        if place == self.crash_at:
            raise Crash


def crash_or_end(run, attempt):
    """Takes a run to its crash, in the first attempt, or to its end, in another; it is closed."""
    try:
        list(run)
    except Crash:
        assert attempt == 0
    else:
        assert attempt == 1
    finally:
        run.close()
