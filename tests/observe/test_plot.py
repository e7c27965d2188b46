"""The picture of a comparison: what it shows, and where there is nothing to show."""

from pathlib import Path

import matplotlib.figure
import pytest

from headway.observe.plot import COLOURS, comparison_picture


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws a picture, and returns its axes."""
    kept = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (kept.append(self), save(self, *a, **k))
    )

    def drawn(curves, clients):
        path = Path(tmp_path / "picture.png")
        comparison_picture(path, title="t", metric="accuracy", where="here", curves=curves, clients=clients)
        assert path.read_bytes().startswith(b"\x89PNG")
        return kept[-1].axes

    return drawn


def test_without_values_of_clients_the_curves_have_the_whole_width(drawn):
    curves = {"a": [((1, 2), (0.1, 0.2))], "b": [((1, 2), (0.2, 0.3))]}
    assert len(drawn(curves, {"a": [], "b": []})) == 1
    assert len(drawn(curves, {"a": [("x", 0.1)], "b": []})) == 2


def test_beyond_the_colours_lines_are_dashed_and_say_so(drawn):
    names = [f"m{number}" for number in range(len(COLOURS) + 1)]
    (axes,) = drawn({name: [((1, 2), (0.1, 0.2))] for name in names}, {})
    assert [line.get_linestyle() for line in axes.lines] == ["-"] * len(COLOURS) + ["--"]
    assert [text.get_text().strip() for text in axes.texts][-1] == f"{names[-1]} (dashed)"
