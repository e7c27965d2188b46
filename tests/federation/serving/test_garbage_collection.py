"""The garbage collector of a server: fewer collections while it serves, and as before afterwards."""

import gc

from headway.federation.serving.garbage_collection import THRESHOLDS, fewer_collections


def test_the_collector_is_as_before_at_the_end():
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        with fewer_collections():
            assert gc.get_threshold() == THRESHOLDS
            assert gc.get_freeze_count() > 10_000
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert gc.get_threshold() == before
    assert (gc.get_freeze_count() > 0) == (frozen > 0)
