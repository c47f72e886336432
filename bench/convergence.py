"""Does pre-copy converge, and at what cost? Ours beside the published algorithms, on paper.

``python bench/convergence.py --record`` runs guests on a local cluster and keeps what they write in
``traces/dirty.json``. ``python bench/convergence.py`` plays each trace over links of several speeds
with each algorithm, the same rounds for all, and prints what stands in docs/performance.md: a table
of all plays, and one of the measures in which another is better than ours, each with the reason
(``WORSE``), which a test holds to what is found. ``--json FILE`` keeps both.

The others' rules are those of ``godwit_protocol.estimation.policies``.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import ending
import msgspec
import records
from records import figure

from godwit_protocol.convergence import (
    BANDWIDTH_ALPHA,
    STUN_FIXED_NS,
    Decision,
    Slowing,
    decide,
)
from godwit_protocol.estimation.history import DirtyWindow, RegionWrites
from godwit_protocol.estimation.policies import Policy, choose
from godwit_protocol.estimation.rounds import Curve, Round, Writing

TRACES = Path(__file__).parent / "traces" / "dirty.json"
RECORD_S = 25.0
LINKS_GBIT = (1, 10, 25)
SCALE = 64
"""The recorded machines are small: each byte stands for so many, as on a machine 64 times as large,
written by so many guests of the recorded kind."""
ROUND_OVERHEAD_NS = 3_000_000
STUN_LIMIT_NS = 500_000_000
SLOW_PERCENT_MAX = 99
ROUNDS_MAX = 500
TIME_MAX_NS = 3600 * 1_000_000_000


@dataclass
class Play:
    """A migration under way: its rounds and how long they have taken."""

    rounds: list[Round]
    elapsed_ns: int = 0
    percent: int = 0
    """Of the guest's time, taken from it now."""
    guest_lost_ns: int = 0


class Godwit:
    """Ours: the production core. Like each of the others it decides at a round's end, and may keep
    what it likes: there is one for each play. ``wait_bytes_max``, of what is hot, may wait for the
    stun.
    """

    def __init__(self, percent_max: int = SLOW_PERCENT_MAX, *, may_wait: bool = True) -> None:
        self.percent = 0
        self.wait_bytes_max = 0
        self._percent_max = percent_max
        self._may_wait = may_wait

    def at_round_end(self, play: Play) -> Decision:
        verdict = decide(
            play.rounds,
            stun_limit_ns=STUN_LIMIT_NS,
            rounds_max=30,
            slowing=Slowing(self.percent, self._percent_max),
        )
        self.percent = verdict.slow_percent
        self.wait_bytes_max = verdict.wait_bytes_max if self._may_wait else 0
        return verdict.decision


class Published:
    """Another's rule."""

    wait_bytes_max = 0

    def __init__(self, policy: Policy) -> None:
        self.percent = 0
        self._policy = policy

    def at_round_end(self, play: Play) -> Decision:
        choice = choose(self._policy, play.rounds, STUN_LIMIT_NS, SLOW_PERCENT_MAX)
        self.percent = choice.slow_percent
        return choice.decision


OURS = "godwit"
PUBLISHED = {
    "qemu": lambda: Published(Policy.QEMU),
    "qemu, auto-converge": lambda: Published(Policy.QEMU_AUTO_CONVERGE),
    "kubevirt": lambda: Published(Policy.KUBEVIRT),
    "nova": lambda: Published(Policy.NOVA),
}
ALGORITHMS = {
    OURS: Godwit,
    "godwit, never slows": lambda: Godwit(0),
    "godwit, nothing waits": lambda: Godwit(may_wait=False),
    **PUBLISHED,
}
assert BANDWIDTH_ALPHA == 0.4, "KubeVirt's"

MEASURES = {"total_s": "total time, s", "sent_gb": "bytes, GB", "stun_ms": "stun, ms"}
"""Less is better."""


class Case(NamedTuple):
    """A measure of a trace over a link."""

    trace: str
    link_gbit: float
    measure: str


SLOWS = "it slows the guest and stuns it for longer; ours slows nobody, and is the best of those"
SHORTER_STUN = "ours sends one round more, as the last one shrank what was left: for a short stun"
WITHIN_THE_LIMIT = "it goes on until a tenth of the limit fits; ours is done sooner, with less sent"
WAITS = "hot leaves wait for the stun, up to its limit: done in a third of the time, with less sent"
ONE_CANNOT_TELL = "one round cannot tell whether a second would shrink what is left: it did not"
WORSE = {
    Case("memhog-10-uniform", 10, "total_s"): SLOWS,
    Case("memhog-10-uniform", 10, "sent_gb"): SLOWS,
    Case("memhog-10-uniform", 10, "stun_ms"): WITHIN_THE_LIMIT,
    Case("memhog-10-uniform", 25, "total_s"): SHORTER_STUN,
    Case("memhog-10-uniform", 25, "sent_gb"): SHORTER_STUN,
    Case("memhog-50-hot", 25, "total_s"): SLOWS,
    Case("memhog-50-hot", 25, "sent_gb"): SLOWS,
    Case("trainer", 1, "stun_ms"): WAITS,
    Case("trainer", 10, "total_s"): ONE_CANNOT_TELL,
    Case("trainer", 10, "sent_gb"): ONE_CANNOT_TELL,
    Case("trainer", 25, "total_s"): ONE_CANNOT_TELL,
    Case("trainer", 25, "sent_gb"): ONE_CANNOT_TELL,
}
"""Where another is better than ours, and why that is as it is: in no other measure."""


@dataclass
class Result:
    """One play's figures."""

    trace: str
    link_gbit: float
    algorithm: str
    ends: str
    rounds: int
    total_s: float
    sent_gb: float
    stun_ms: float
    guest_lost_s: float


def play_out(name: str, windows: Sequence[DirtyWindow], link_gbit: float, algorithm: str) -> Result:
    """One migration: round after round, each with the next recorded window."""
    rule, curves = ALGORITHMS[algorithm](), _curves(windows)
    rate = link_gbit / 8
    curve = next(curves)
    play, writing = Play([]), Writing()
    to_send, decision = curve.resident_bytes, Decision.ANOTHER_ROUND
    while decision is Decision.ANOTHER_ROUND:
        if len(play.rounds) >= ROUNDS_MAX or play.elapsed_ns >= TIME_MAX_NS:
            decision = Decision.GIVE_UP
            break
        play.percent, curve = rule.percent, next(curves)
        waits = rule.wait_bytes_max
        to_send -= waits
        duration_ns = ROUND_OVERHEAD_NS + int(to_send / rate)
        own_ns = duration_ns * (100 - play.percent) // 100
        play.guest_lost_ns += duration_ns - own_ns
        left, hot = writing.left(curve, own_ns, waits)
        writing.passed(own_ns)
        done = Round(to_send, duration_ns, left, hot_bytes=hot, waiting_bytes=waits)
        play.rounds.append(done)
        play.elapsed_ns += duration_ns
        decision, to_send = rule.at_round_end(play), left
    return _result(name, link_gbit, algorithm, decision, play, rate)


def _result(
    name: str, link_gbit: float, algorithm: str, decision: Decision, play: Play, rate: float
) -> Result:
    moved = decision is Decision.STUN
    last = play.rounds[-1].remaining_bytes if moved else 0
    stun_ns = STUN_FIXED_NS + int(last / rate) if moved else 0
    sent = sum(done.sent_bytes for done in play.rounds) + last
    return Result(
        name,
        link_gbit,
        algorithm,
        "moved" if moved else "given up",
        len(play.rounds),
        round((play.elapsed_ns + stun_ns) / 1e9, 2),
        round(sent / 1e9, 2),
        round(stun_ns / 1e6, 1),
        round(play.guest_lost_ns / 1e9, 2),
    )


def _curves(windows: Sequence[DirtyWindow]) -> Iterator[Curve]:
    while True:
        yield from map(Curve, windows)


def compare(traces: dict[str, tuple[DirtyWindow, ...]]) -> list[Result]:
    """All plays."""
    return [
        play_out(name, windows, link, algorithm)
        for name, windows in traces.items()
        for link in LINKS_GBIT
        for algorithm in ALGORITHMS
    ]


def load_traces(path: Path = TRACES) -> dict[str, tuple[DirtyWindow, ...]]:
    """The recorded windows, scaled."""
    recorded = msgspec.json.decode(path.read_bytes(), type=dict[str, tuple[DirtyWindow, ...]])
    return {name: tuple(map(_scaled, windows)) for name, windows in recorded.items()}


def _scaled(window: DirtyWindow) -> DirtyWindow:
    regions = tuple(
        RegionWrites(
            region.name,
            region.resident_bytes * SCALE,
            tuple(written * SCALE for written in region.written_bytes),
        )
        for region in window.regions
    )
    return msgspec.structs.replace(window, regions=regions)


def by_case(results: Sequence[Result]) -> Iterator[tuple[tuple[str, float], dict[str, Result]]]:
    """By trace and link: the plays by algorithm."""
    for case, plays in groupby(results, lambda each: (each.trace, each.link_gbit)):
        yield case, {play.algorithm: play for play in plays}


def others_that_moved(plays: Mapping[str, Result]) -> list[Result]:
    """Of one case: the plays of published algorithms that moved the machine."""
    return [plays[name] for name in PUBLISHED if plays[name].ends == "moved"]


def worse(results: Sequence[Result]) -> dict[Case, tuple[float, float, str]]:
    """Where ours is worse than the best of those that move the machine: ours, the best, whose."""
    found: dict[Case, tuple[float, float, str]] = {}
    for (trace, link), plays in by_case(results):
        for measure in MEASURES:
            ours: float = getattr(plays[OURS], measure)
            others = [(getattr(each, measure), each.algorithm) for each in others_that_moved(plays)]
            best, whose = min(others, default=(ours, OURS), key=itemgetter(0))
            if ours > best:
                found[Case(trace, link, measure)] = ours, best, whose
    return found


async def record() -> dict[str, tuple[DirtyWindow, ...]]:
    """Let guests run, and keep what the host's sampler saw."""
    from estimates import GUESTS, begin

    from godwit.cli.machine import stop_machine
    from godwit.local_cluster.cluster import Cluster
    from godwit.runtime.nats_log import NatsLog
    from godwit_protocol import subjects
    from godwit_protocol.estimation.history import decode_machine

    traces: dict[str, tuple[DirtyWindow, ...]] = {}
    with tempfile.TemporaryDirectory() as directory:
        async with await Cluster.start(Path(directory), hosts=1, gpus="H100-80GB:1") as cluster:
            log = await NatsLog.connect(cluster.nats_url, name="bench")
            for name in GUESTS:
                await begin(log, name)
                await asyncio.sleep(RECORD_S)
                kept = await log.last(subjects.machine_history(name))
                assert kept is not None, f"nothing was sampled of {name}"
                traces[name] = decode_machine(kept.data).windows
                await stop_machine(log, name)
            await log.close()
    return traces


def table(results: Sequence[Result]) -> str:
    """As Markdown: a row a trace and link, a column an algorithm."""
    lines = ["| trace | Gbit/s | " + " | ".join(ALGORITHMS) + " |"]
    lines.append("|---" * (len(ALGORITHMS) + 2) + "|")
    for (trace, link), plays in by_case(results):
        cells = " | ".join(map(_cell, plays.values()))
        lines.append(f"| {trace} | {link:g} | {cells} |")
    return "\n".join(lines)


def _cell(play: Result) -> str:
    if play.ends != "moved":
        return f"given up after {figure(play.total_s)} s"
    lost = f", lost {figure(play.guest_lost_s)} s" if play.guest_lost_s else ""
    told = (figure(play.total_s), figure(play.sent_gb), figure(play.stun_ms))
    return "{} s, {} GB, {} ms".format(*told) + lost


def worse_table(results: Sequence[Result]) -> str:
    """As Markdown: a row a measure in which another is better than ours, with the reason."""
    lines = ["| trace | Gbit/s | measure | ours | the best | whose | why |", "|---" * 7 + "|"]
    for case, (ours, best, whose) in worse(results).items():
        cells = (case.trace, f"{case.link_gbit:g}", MEASURES[case.measure])
        cells += (figure(ours), figure(best), whose, WORSE.get(case, "**not said**"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def told(results: Sequence[Result]) -> str:
    """What stands in the docs."""
    return f"{table(results)}\n\nWhere another is better than ours:\n\n{worse_table(results)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.record:
        recorded = ending.run(record())
        TRACES.write_bytes(msgspec.json.format(msgspec.json.encode(recorded)) + b"\n")
    results = compare(load_traces())
    plays = [asdict(each) for each in results]
    records.tell_text("bench/convergence.py", told(results), given.json, plays=plays)


if __name__ == "__main__":
    main()
