"""One page that shows what runs did: read from journals, written as a single HTML file that loads nothing."""

from headway.reports.page.content import DataNotes, Evidence, Method, Partition, SeedRun
from headway.reports.page.journal_reader import Pull, Record, Trouble, read_record
from headway.reports.page.label_holdings import partition_of
from headway.reports.page.page import GENERATOR, render

__all__ = [
    "GENERATOR",
    "DataNotes",
    "Evidence",
    "Method",
    "Partition",
    "Pull",
    "Record",
    "SeedRun",
    "Trouble",
    "partition_of",
    "read_record",
    "render",
]
