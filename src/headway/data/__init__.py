"""Data that clients hold: sources, natural and drawn partitions, repeatable splits and batches."""

from headway.data.batches import batch_bounds, epoch_order
from headway.data.federated import ClientSummary, Examples, FederatedData
from headway.data.hospitals import hospitals
from headway.data.hub import from_huggingface
from headway.data.partition import PARTITIONERS, Partitioner, partitioner
from headway.data.skew import LabelSkew, label_skew
from headway.data.source import load, sources
from headway.data.split import split
from headway.data.tables import TableFacts, infer_csv
from headway.data.torchset import from_torch

__all__ = [
    "PARTITIONERS",
    "ClientSummary",
    "Examples",
    "FederatedData",
    "LabelSkew",
    "Partitioner",
    "TableFacts",
    "batch_bounds",
    "epoch_order",
    "from_huggingface",
    "from_torch",
    "hospitals",
    "infer_csv",
    "label_skew",
    "load",
    "partitioner",
    "sources",
    "split",
]
