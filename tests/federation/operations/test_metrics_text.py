"""The metrics in the text format of Prometheus: every line is well-formed, hostile labels stay labels."""

import re

from boards import HOSTILE, hostile_board, rounds_of, server_board

from headway.federation.operations.metrics_text import family, metrics_text, process_text
from headway.federation.operations.status_board import StatusBoard
from headway.federation.operations.status_snapshot import ClientStatus

LABEL = r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\n"])*"'
SAMPLE = re.compile(rf"([a-zA-Z_:][\w:]*)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (NaN|[+-]Inf|-?[\d.]+(?:e[+-]?\d+)?)")


def read(text):
    """The samples of an exposition by (name, labels); fails for what a scraper would refuse."""
    samples, kinds, families = {}, {}, []
    assert text.endswith("\n")
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# TYPE "):
            name, kind = line.split(" ")[2:]
            assert name not in kinds
            kinds[name] = kind
            families.append(name)
            continue
        if line.startswith("# HELP "):
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        assert match[1] == families[-1]  # the lines of a family stand together
        labels = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or "")
        undone = {name: re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), text) for name, text in labels}
        key = (match[1], tuple(sorted(undone.items())))
        assert key not in samples
        samples[key] = float(match[3])
    for name, kind in kinds.items():
        assert (kind == "counter") == name.endswith("_total"), name
    return samples


def test_what_a_scraper_reads():
    client = ClientStatus(name="north", presence="connected", counted=3, late=1, bytes_up=7, contact=999_990.0)
    samples = read(metrics_text(server_board([client], done=3).snapshot()))
    assert samples["headway_rounds_completed_total", ()] == 3
    assert samples["headway_run_state", (("state", "running"),)] == 1
    assert samples["headway_updates_total", (("outcome", "counted"),)] == 3
    assert samples["headway_round_bytes_total", (("direction", "up"),)] == 900
    assert samples["headway_client_updates_total", (("client", "north"), ("outcome", "late"))] == 1
    assert samples["headway_client_silent_seconds", (("client", "north"),)] == 10
    assert samples["headway_clients", (("presence", "connected"),)] == 1
    assert samples["headway_metric", (("metric", "accuracy"), ("on", "clients"))] == 0.5
    assert samples["headway_refused_calls_total", (("status", "401"),)] == 7
    assert ("headway_metric", (("metric", "loss"), ("on", "clients"))) not in samples  # it was NaN


def test_hostile_names_stay_labels():
    name = HOSTILE + '"\\\n# TYPE x counter'
    samples = read(metrics_text(server_board([ClientStatus(name=name, presence="gone")]).snapshot()))
    assert samples["headway_client_connected", (("client", name),)] == 0
    read(metrics_text(hostile_board().snapshot()))


def test_counters_never_fall_while_a_run_goes_on():
    board = StatusBoard("simulation", "mine", 5)
    before = {}
    for report in rounds_of(5):
        board.add_round(report)
        samples = read(metrics_text(board.snapshot()))
        counters = {key: value for key, value in samples.items() if key[0].endswith("_total")}
        assert all(counters[key] >= value for key, value in before.items())
        before = counters
    assert before["headway_rounds_completed_total", ()] == 5


def test_series_of_single_clients_are_left_out_where_they_would_come_and_go():
    many = [ClientStatus(name=f"c{each}", presence="connected") for each in range(1500)]
    samples = read(metrics_text(server_board(many).snapshot()))
    assert not [key for key in samples if key[0].startswith("headway_client_")]
    assert samples["headway_clients", (("presence", "connected"),)] == 1500


def test_numbers_that_are_not_finite():
    text = family("x", "gauge", "a\nb", [({}, float("nan")), ({"a": "1"}, float("inf")), ({"a": "2"}, None)])
    assert text == '# HELP x a\\nb\n# TYPE x gauge\nx NaN\nx{a="1"} +Inf\n'


def test_the_process_where_the_system_shows_it(tmp_path):
    (tmp_path / "statm").write_text("300 200 100 1 0 50 0\n")
    samples = read(process_text(tmp_path / "statm"))
    assert samples["process_resident_memory_bytes", ()] % 200 == 0
    assert list(read(process_text(tmp_path / "nothing"))) == [("process_cpu_seconds_total", ())]
