"""Runs `headway` as its console script does, with the fault that a test has asked for.

HEADWAY_TEST_FAULT holds "place|action|count": at the count-th pass of the place the process is killed ("kill"), stopped
("stop"), or fails as a full or a broken disk does ("full", "broken"); "any moment|kill|200"
kills it after 200 ms.  HEADWAY_TEST_TRACE names a file to which every
place that is passed is added.  HEADWAY_TEST_FILE_SIZE is the largest size of a file, as on a disk that is full.
HEADWAY_TEST_GRACE are the seconds that it has to end in order after a signal, which on a busy machine may be long.
"""

import errno
import os
import resource
import signal
import sys
import threading

from headway.core import fault_points, stopping

ANY_MOMENT = "any moment"


def hook_for(wanted: str, trace: str):
    place, _, rest = wanted.partition("|")
    action, _, count = rest.partition("|")
    left = [int(count or 1)]
    if place == ANY_MOMENT:
        timer = threading.Timer(left[0] / 1000, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()

    def hook(passed: str) -> None:
        if trace:
            with open(trace, "a") as file:
                file.write(f"{passed}\n")
        if passed != place:
            return
        left[0] -= 1
        if left[0]:
            return
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            number = errno.ENOSPC if action == "full" else errno.EIO
            raise OSError(number, os.strerror(number))

    return hook


def main() -> None:
    wanted, trace = os.environ.get("HEADWAY_TEST_FAULT", ""), os.environ.get("HEADWAY_TEST_TRACE", "")
    if wanted or trace:
        fault_points.install(hook_for(wanted, trace))
    if size := os.environ.get("HEADWAY_TEST_FILE_SIZE"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    if grace := os.environ.get("HEADWAY_TEST_GRACE"):
        stopping.GRACE_S = float(grace)
    if os.environ.get("HEADWAY_TEST_RUN"):  # another program than headway, with its arguments
        import runpy

        sys.argv = sys.argv[1:]
        runpy.run_path(sys.argv[0], run_name="__main__")
        return
    from headway.__main__ import main as headway

    headway()


if __name__ == "__main__":
    main()
