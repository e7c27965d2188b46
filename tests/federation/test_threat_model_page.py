"""docs/threat-model.md names tests that are there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "threat-model.md").read_text()


def test_each_test_that_the_page_names_is_there():
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and "test_" in line]
    assert len(rows) > 10
    for row in rows:
        folder = Path()
        for name in re.findall(r"`([\w/]+\.py)`", row):
            path = Path(name) if "/" in name or not folder.name else folder / name
            if not (TESTS / path).is_file():
                path = Path(name)
            assert (TESTS / path).is_file(), name
            folder = path.parent
