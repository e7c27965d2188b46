"""The picture of a comparison: what it shows, and where there is nothing to show."""

from pathlib import Path

import matplotlib.figure
import pytest

from headway.reports.comparison_picture import COLOURS, comparison_picture


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws a picture, and returns its axes."""
    kept = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (kept.append(self), save(self, *a, **k))
    )

    def drawn(curves, clients, times=None, **options):
        path, words = Path(tmp_path / "picture.png"), {"title": "t", "metric": ("accuracy", "here")}
        comparison_picture(path, **words, curves=curves, clients=clients, times=times, **options)
        assert path.read_bytes().startswith(b"\x89PNG")
        return kept[-1].axes

    return drawn


def test_without_values_of_clients_the_curves_have_the_whole_width(drawn):
    curves = {"a": [((1, 2), (0.1, 0.2))], "b": [((1, 2), (0.2, 0.3))]}
    assert len(drawn(curves, {"a": [], "b": []})) == 1
    assert len(drawn(curves, {"a": [("x", 0.1)], "b": []})) == 2


def test_with_a_clock_the_same_values_stand_over_simulated_time_too(drawn):
    curves = {"a": [((1, 2), (0.1, 0.2)), ((1, 2), (0.3, 0.4))], "b": [((1, 2), (0.2, 0.3))]}
    times = {"a": [(3600, 7200), (7200, 14_400)], "b": [(60, 18_000)]}
    rounds, hours, _ = drawn(curves, {"a": [("x", 0.1)], "b": []}, times)
    assert hours.get_xlabel().startswith("simulated time in hours")
    assert [tuple(line.get_xdata()) for line in rounds.lines] == [(1, 2), (1, 2)]
    assert [tuple(line.get_xdata()) for line in hours.lines] == [(1.5, 3.0), (1 / 60, 5.0)]  # means over seeds
    assert [list(line.get_ydata()) for line in hours.lines] == [list(line.get_ydata()) for line in rounds.lines]


def test_a_method_of_which_a_seed_failed_says_so_and_a_short_one_does_not(drawn):
    curves = {"a": [((1, 2), (0.1, 0.2))], "b": [((1,), (0.2,))], "c": [((1,), (0.4,))]}
    (axes,) = drawn(curves, {}, stopped={"c"})
    said = {text.get_text().strip() for text in axes.texts}
    assert said == {"a", "b", "c, a seed stopped"}
    assert sum(line.get_marker() == "x" for line in axes.lines) == 1


def test_beyond_the_colours_lines_are_dashed_and_say_so(drawn):
    names = [f"m{number}" for number in range(len(COLOURS) + 1)]
    (axes,) = drawn({name: [((1, 2), (0.1, 0.2))] for name in names}, {})
    assert [line.get_linestyle() for line in axes.lines] == ["-"] * len(COLOURS) + ["--"]
    assert [text.get_text().strip() for text in axes.texts][-1] == f"{names[-1]} (dashed)"
