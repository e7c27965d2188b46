"""The drawings in docs/images are the ones that docs/make_pictures.py makes of the published figures."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
MAKER = runpy.run_path(str(DOCS / "make_pictures.py"))
PICTURES = MAKER["pictures"]()


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_is_up_to_date(name):
    assert (DOCS / "images" / name).read_text() == PICTURES[name], "run: python docs/make_pictures.py"


def test_the_gain_is_the_published_one():
    results = MAKER["results"]()
    assert results["fedavg"] == (0.6307, 0.0479)
    assert results["fedavg+ecgr"] == (0.7215, 0.0258)
    assert "+9.1 points" in PICTURES["ecgr-gain.svg"]
