"""Windows and links for estimates: by hand, and drawn by hypothesis."""

from __future__ import annotations

from itertools import accumulate, count

from hypothesis import strategies as st

from godwit_protocol.convergence import TELLING_BYTES
from godwit_protocol.estimation.history import DirtyWindow, LinkSample, RegionWrites

MIB = 2**20
MS = 1_000_000


def window(
    *written_bytes: int,
    resident_bytes: int = 1024 * MIB,
    elapsed_ns: tuple[int, ...] = (),
    epoch: int = 1,
) -> DirtyWindow:
    """One region that has ``written_bytes`` dirty at each of the first instants."""
    instants = elapsed_ns or tuple(5 * MS * 4**i for i in range(len(written_bytes)))
    return DirtyWindow(
        machine="m",
        host="host-1",
        epoch=epoch,
        taken_wall_ns=1,
        elapsed_ns=instants,
        regions=(RegionWrites("ram", resident_bytes, written_bytes),),
    )


def steady(bytes_per_second: int, resident_bytes: int = 1024 * MIB) -> DirtyWindow:
    """A machine that never writes a page twice."""
    return window(
        *(bytes_per_second * 5 * 4**i // 1000 for i in range(5)), resident_bytes=resident_bytes
    )


_NUMBERS = count(1)


def link(
    bytes_per_second: float,
    *,
    migration: str = "",
    machine: str = "m",
    source: str = "host-1",
    destination: str = "host-2",
    overhead_ns: int = 0,
    intent_ns: int = 0,
    switchover_ns: int = 10 * MS,
    around_ns: int = 0,
    final_bytes: int = 0,
    largest_bytes: int = TELLING_BYTES,
) -> LinkSample:
    """A link as one move found it."""
    return LinkSample(
        migration=migration or f"migration-{next(_NUMBERS)}",
        machine=machine,
        source=source,
        destination=destination,
        bytes_per_second=bytes_per_second,
        round_overhead_ns=overhead_ns,
        intent_ns=intent_ns,
        switchover_ns=switchover_ns,
        around_ns=around_ns,
        final_bytes=final_bytes,
        largest_bytes=largest_bytes,
    )


@st.composite
def windows(draw: st.DrawFn) -> DirtyWindow:
    """Any curve: instants a while apart, writes that never go back."""
    count = draw(st.integers(1, 6))
    gaps = draw(st.lists(st.integers(1, 2_000 * MS), min_size=count, max_size=count))
    growth = draw(st.lists(st.integers(0, 256 * MIB), min_size=count, max_size=count))
    resident = draw(st.integers(0, 4096 * MIB))
    return window(*accumulate(growth), resident_bytes=resident, elapsed_ns=tuple(accumulate(gaps)))


durations = st.integers(0, 10_000 * MS)
links = st.builds(
    link,
    st.floats(1e3, 1e11),
    overhead_ns=durations,
    intent_ns=durations,
    switchover_ns=durations,
    around_ns=durations,
    final_bytes=st.integers(0, 4096 * MIB),
)
