"""The ideas of Headway, with no I/O: torch and the standard library only.  Their names are loaded when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headway.core.lazy_names import lazy_names

if TYPE_CHECKING:
    from headway.core.algorithm import Algorithm as Algorithm
    from headway.core.context import Context as Context
    from headway.core.errors import ChainRefused as ChainRefused
    from headway.core.errors import ClientFailed as ClientFailed
    from headway.core.errors import ConfigError as ConfigError
    from headway.core.errors import DataError as DataError
    from headway.core.errors import Diverged as Diverged
    from headway.core.errors import HeadwayError as HeadwayError
    from headway.core.errors import RunFolderError as RunFolderError
    from headway.core.flow import Flow as Flow
    from headway.core.layout import Layout as Layout
    from headway.core.sampler import Sampler as Sampler
    from headway.core.stage import Aggregator as Aggregator
    from headway.core.stage import Place as Place
    from headway.core.stage import Protocol as Protocol
    from headway.core.stage import Stage as Stage
    from headway.core.update import Update as Update

__getattr__ = lazy_names(
    __name__,
    {
        "algorithm": ("Algorithm",),
        "context": ("Context",),
        "errors": (
            "ChainRefused",
            "ClientFailed",
            "ConfigError",
            "DataError",
            "Diverged",
            "HeadwayError",
            "RunFolderError",
        ),
        "flow": ("Flow",),
        "layout": ("Layout",),
        "sampler": ("Sampler",),
        "stage": ("Aggregator", "Place", "Protocol", "Stage"),
        "update": ("Update",),
    },
)
