"""Sources of examples: packaged data sets, files, folders, arrays."""

from headway.data.sources.example_pool import ExamplePool
from headway.data.sources.hospitals import hospitals
from headway.data.sources.hub import from_huggingface
from headway.data.sources.loading import described, load
from headway.data.sources.mapped import mapped, mapped_examples
from headway.data.sources.source_registry import register_source, sources
from headway.data.sources.tables import TableFacts, infer_csv
from headway.data.sources.torch_datasets import from_torch

__all__ = [
    "ExamplePool",
    "TableFacts",
    "described",
    "from_huggingface",
    "from_torch",
    "hospitals",
    "infer_csv",
    "load",
    "mapped",
    "mapped_examples",
    "register_source",
    "sources",
]
