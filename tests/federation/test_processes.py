"""The harness of the other tests: what it starts, kills, and leaves."""

import signal

import pytest
from processes import Processes, in_session, until

SCRIPT = """
import sys, time
from headway.core import fault_points
print("listening at http://127.0.0.1:4711", flush=True)
for number in range(5):
    fault_points.at("turn")
    print("turn", number, flush=True)
with open("big", "wb", 0) as file:
    file.write(bytes(5000)); file.write(bytes(5000))
if "--wait" in sys.argv:
    import subprocess
    while time.process_time() < 0.2:
        pass
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    time.sleep(100)
"""


@pytest.fixture
def processes(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    with Processes(tmp_path) as processes:
        yield processes


def test_a_process_without_a_fault(processes, tmp_path):
    process = processes.start("one", "script.py", program=True, trace=tmp_path / "trace")
    assert process.url() == "http://127.0.0.1:4711"
    assert process.wait() == 0
    assert (tmp_path / "trace").read_text().split() == ["turn"] * 5


def test_killed_at_the_third_pass(processes):
    process = processes.start("one", "script.py", program=True, fault="turn|kill|3")
    assert process.wait() == -signal.SIGKILL
    assert "turn 1" in process.text
    assert "turn 2" not in process.text
    again = processes.start("one", "script.py", program=True)
    assert again.wait() == 0
    assert again.text.count("listening") == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fault": "turn|full|2"}, "No space left"),
        ({"fault": "turn|broken"}, "Input/output"),
        ({"file_size": 6000}, "File too large"),
    ],
    ids=str,
)
def test_a_disk_that_fails(processes, options, sentence):
    process = processes.start("one", "script.py", program=True, **options)
    if "file_size" in options:  # the first write is cut short, as on a disk that is nearly full
        process.wait()
        assert sentence in process.text or (processes.folder / "big").stat().st_size == 6000
        return
    assert process.wait() == 1
    assert sentence in process.text


def test_nothing_is_left(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    with Processes(tmp_path) as processes:
        process = processes.start("one", "script.py", "--wait", program=True)
        process.shows("turn 4")
        until(lambda: len(in_session(process.pid)) == 2)
        assert process.memory > 1 << 20
        assert process.descriptors > 2
        until(lambda: process.cpu_s > 0)
    assert not process.alive
    until(lambda: not in_session(process.pid))


def test_headway_itself(processes):
    process = processes.start("one", "list")
    assert process.wait() == 0
    assert "fedavg" in process.text
