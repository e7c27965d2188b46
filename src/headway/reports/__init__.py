"""From run folders and comparison folders to what a page shows; nothing is trained."""

from headway.reports.assemble import evidence

__all__ = ["evidence"]
