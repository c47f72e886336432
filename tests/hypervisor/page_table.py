"""What this process has mapped of a region."""

import re
from pathlib import Path

from godwit_protocol.machine import PAGE_BYTES


def mapped_pages(name):
    """Pages of the region in this process's page table."""
    smaps = Path("/proc/self/smaps").read_text()
    found = re.search(rf"/memfd:godwit-{name} .*?\nRss: +(\d+) kB", smaps, re.DOTALL)
    return int(found[1]) * 1024 // PAGE_BYTES
