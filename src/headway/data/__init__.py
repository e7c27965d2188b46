"""Data that clients hold: sources, natural and drawn partitions, repeatable splits and batches."""

from headway.data.batches import batch_bounds, epoch_order
from headway.data.dealing import Partitioner
from headway.data.federated import ClientSummary, Examples, FederatedData
from headway.data.hospitals import hospitals
from headway.data.hub import from_huggingface
from headway.data.mapped import mapped, mapped_examples
from headway.data.partition import PARTITIONERS, partitioner
from headway.data.parts import Numbered, Parts
from headway.data.shift import SHIFTS, shift, shifted
from headway.data.shifting import Shift
from headway.data.skew import ClientSkew, LabelSkew, Skew, Spread, label_skew, skew_of
from headway.data.source import described, load, sources
from headway.data.split import split
from headway.data.tables import TableFacts, infer_csv
from headway.data.torchset import from_torch

__all__ = [
    "PARTITIONERS",
    "SHIFTS",
    "ClientSkew",
    "ClientSummary",
    "Examples",
    "FederatedData",
    "LabelSkew",
    "Numbered",
    "Parts",
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
    "shift",
    "shifted",
    "skew_of",
    "sources",
    "split",
]
