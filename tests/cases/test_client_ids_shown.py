"""Client ids of any form break neither the terminal nor a picture."""

import csv
import warnings

from mk import blobs

ODD = ["North", "North ", "<b>Süd</b>", "a$_{x}$b$", "[red]", "名古屋", "x" * 300, "new\nline", "tab\there", "\x1b[2J"]


def odd_table():
    x, y = blobs(n=300)
    with open("odd.csv", "w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["site", *(f"f{j}" for j in range(10)), "y"])
        rows.writerows([ODD[i % len(ODD)], *x[i], "abcd"[y[i]]] for i in range(300))


def test_a_run_a_report_and_a_partition_show_each_id_on_one_line(headway):
    odd_table()
    code, _, err = headway("init", "--data", "odd.csv", "--client-column", "site", "--target", "y", "--out", "odd.toml")
    assert code == 0, err
    code, out, err = headway("run", "odd.toml", "--rounds", "2", "--out", "r")
    assert code == 0, err
    table = out[out.index("on the test part of") :].splitlines()[1 : len(ODD) + 1]
    assert [line for line in table if len(line) > 120 or not line.isprintable()] == []
    assert any(line.startswith("'North '") for line in table)
    assert any(line.startswith("[red]") for line in table)
    assert any(line.startswith("new\\nline") for line in table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for command in (
            ("partition", "odd.toml"),
            ("report", "r"),
            ("compare", "odd.toml", "--methods", "fedavg,fedprox"),
        ):
            more = ("--seeds", "2", "--set", "run.rounds=2") if command[0] == "compare" else ()
            code, out, err = headway(*command, *more)
            assert code == 0, err
            assert max(map(len, out.splitlines())) < 500
            assert "\x1b" not in out
