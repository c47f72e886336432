"""Does it pay to look for pages that were written again with what they held? Pure.

To look costs more than to send where the link is fast, and most machines write what is new. So a
sample is looked at first, one chunk of ``SAMPLED_CHUNKS``: a round notes what it sent of it, and
the next tells what had not changed. If that saved more time than looking took, all pages are looked
at from then on, until a round saves less; else none is any more, in this migration.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

import msgspec

SAMPLED_CHUNKS: Final = 16
"""One chunk of so many is in the sample."""
SAMPLE_PAGES_MIN: Final = 16
"""A sample of fewer pages says nothing; the next one may."""


class Search(Enum):
    """What a round looks at."""

    SAMPLE = "sample"
    EVERYTHING = "everything"
    NOTHING = "nothing"


class Looked(NamedTuple):
    """A round in which pages were looked at."""

    pages: int
    omitted: int
    looking_ns: int
    """Of the sending threads, together."""
    page_ns: float
    """What it takes of them to send a page."""


class Searching(msgspec.Struct, frozen=True):
    """What is looked at now, and what is known of it."""

    search: Search = Search.SAMPLE
    is_noted: bool = False
    """There is something to compare with."""
    has_paid: bool = False
    """Looking at everything did, in the last round that told: then the stun does so too."""


def after(searching: Searching, looked: Looked) -> Searching:
    """What to look at in the round after one that looked."""
    is_sample = searching.search is Search.SAMPLE
    if searching.search is Search.NOTHING or (is_sample and looked.pages < SAMPLE_PAGES_MIN):
        return searching
    if not searching.is_noted:
        return Searching(searching.search, is_noted=True)
    if looked.omitted * looked.page_ns <= looked.looking_ns:
        return Searching(Search.NOTHING)
    return Searching(Search.EVERYTHING, is_noted=not is_sample, has_paid=not is_sample)
