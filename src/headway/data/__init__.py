"""Data that clients hold: sources, natural and drawn partitions, repeatable splits and batches."""

from headway.core.names import NumberedNames
from headway.data.dataset.batches import batch_bounds, epoch_order
from headway.data.dataset.client_data import ClientData
from headway.data.dataset.client_data import examples_of as examples_of
from headway.data.dataset.client_data import known_population as known_population
from headway.data.dataset.client_index import ClientIndex
from headway.data.dataset.examples import Examples
from headway.data.dataset.federated import ClientSummary, FederatedData
from headway.data.dataset.remote import ClientSize, RemoteData
from headway.data.dataset.split import split
from headway.data.partition import PARTITIONERS, Partitioner, partitioner, register_partition
from headway.data.shift import SHIFTS, Shift, register_shift, shift, shifted
from headway.data.skew import ClientSkew, LabelSkew, Skew, Spread, label_skew, skew_of
from headway.data.sources import (
    ExamplePool,
    TableFacts,
    described,
    from_huggingface,
    from_torch,
    hospitals,
    infer_csv,
    load,
    mapped,
    mapped_examples,
    register_source,
    sources,
)

__all__ = [
    "PARTITIONERS",
    "SHIFTS",
    "ClientData",
    "ClientSize",
    "ClientSkew",
    "ClientSummary",
    "ExamplePool",
    "Examples",
    "FederatedData",
    "LabelSkew",
    "NumberedNames",
    "ClientIndex",
    "Partitioner",
    "RemoteData",
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
