"""One page that shows what runs did: read from journals, written as a single HTML file that loads nothing."""

from headway.observe.page.content import Evidence, Method, Partition, SeedRun, Summed
from headway.observe.page.gather import Pull, Record, Trouble, read_record
from headway.observe.page.page import GENERATOR, render
from headway.observe.page.partition import partition_of

__all__ = [
    "GENERATOR",
    "Evidence",
    "Method",
    "Partition",
    "Pull",
    "Record",
    "SeedRun",
    "Summed",
    "Trouble",
    "partition_of",
    "read_record",
    "render",
]
