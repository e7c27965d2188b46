"""A server and agents that a module's tests kill, each in a process of its own."""

import pytest
from crash_nodes import RECIPES, Nodes


@pytest.fixture(scope="module")
def nodes(request, tmp_path_factory):
    """The nodes of a module, of its RECIPE where it has one; a test begins with a folder of its own: `nodes.fresh`."""
    folder = tmp_path_factory.mktemp("nodes") / "first"
    folder.mkdir()
    with Nodes(folder, getattr(request.module, "RECIPE", RECIPES[0])) as nodes:
        yield nodes
