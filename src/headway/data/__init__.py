"""Data that clients hold: sources, natural and drawn partitions, repeatable splits and batches."""

from headway.core.names import NumberedNames
from headway.data.dataset.batches import batch_bounds, epoch_order
from headway.data.dataset.client_index import ClientIndex
from headway.data.dataset.federated import ClientSummary, Examples, FederatedData
from headway.data.dataset.split import split
from headway.data.partition.allocation import Partitioner
from headway.data.partition.partitioners import PARTITIONERS, partitioner, register_partition
from headway.data.shift.shifting import Shift
from headway.data.shift.shifts import SHIFTS, register_shift, shift, shifted
from headway.data.skew.skew import ClientSkew, LabelSkew, Skew, Spread, label_skew, skew_of
from headway.data.sources.example_pool import ExamplePool
from headway.data.sources.hospitals import hospitals
from headway.data.sources.hub import from_huggingface
from headway.data.sources.loading import described, load
from headway.data.sources.mapped import mapped, mapped_examples
from headway.data.sources.source_registry import register_source, sources
from headway.data.sources.tables import TableFacts, infer_csv
from headway.data.sources.torch_datasets import from_torch

__all__ = [
    "PARTITIONERS",
    "SHIFTS",
    "ClientSkew",
    "ClientSummary",
    "ExamplePool",
    "Examples",
    "FederatedData",
    "LabelSkew",
    "NumberedNames",
    "ClientIndex",
    "Partitioner",
    "Shift",
    "Skew",
    "Spread",
    "TableFacts",
    "batch_bounds",
    "described",
    "epoch_order",
    "from_huggingface",
    "from_torch",
    "hospitals",
    "infer_csv",
    "label_skew",
    "load",
    "mapped",
    "mapped_examples",
    "partitioner",
    "register_partition",
    "register_shift",
    "register_source",
    "shift",
    "shifted",
    "skew_of",
    "sources",
    "split",
]


def __getattr__(name: str) -> object:
    renamed = {"Numbered": NumberedNames, "Parts": ClientIndex}  # names of earlier versions, which keep working
    if name in renamed:
        return renamed[name]
    raise AttributeError(f"module 'headway.data' has no attribute {name!r}")
