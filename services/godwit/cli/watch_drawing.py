"""``godwit watch`` on a screen and in lines: rows in, text out, as wide as there is room. Pure.

A column that does not fit is left out, the least telling first. Nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import Final, NamedTuple

from rich.text import Text

from godwit.pictures.board import Phase, Row
from godwit.pictures.figures import clock, count, duration, rate, short_id, size, sparkline
from godwit.pictures.narrative import reason, sentence

from . import watch_keys
from .watch_keys import Mode, Screen

NAME_MIN, NAME_MAX = 10, 24
"""Characters of a machine's name that a row has room for."""
SPARKS_MAX: Final = 40
ROUND_LINES_MAX: Final = 12
BECAUSE_LINES_MAX: Final = 3
SILENT: Final = "the event log does not answer; this is what it said last"
KEYS: Final = "↑↓ choose · Enter open · / filter · q back"
KEYS_SHORT: Final = "↑↓ · Enter · / · q back"
_STYLES: Final = {
    Phase.STUNNED: "yellow",
    Phase.COMPLETED: "green",
    Phase.ABORTED: "red",
    Phase.IN_DOUBT: "bold red",
}


class Column(NamedTuple):
    """What it shows, at most so wide; a number is on the right. ``rank``: 1 is left out last."""

    name: str
    width: int
    rank: int
    text: Callable[[Row, int], str]
    number: bool = True


def _left(row: Row, now_ns: int) -> str:
    if not row.is_running:
        return "ended"
    left_ns = row.remaining_ns(now_ns)
    if left_ns is None:
        return "?"
    return duration(left_ns // 10**8 * 10**8) if left_ns >= 10**8 else "soon"


def _to_go(row: Row, now_ns: int) -> str:
    left = _left(row, now_ns)
    return "soon over" if left == "soon" else f"{left} to go"


def _stun(row: Row, _: int) -> str:
    """What it was, else what is expected."""
    stun_ns = row.summary.stun_ns
    if stun_ns is not None:
        return duration(stun_ns)
    expected_ns = row.predicted_stun_ns
    if expected_ns is None or not row.is_running:
        return "-"
    return f"~{duration(expected_ns)}"


def _remaining(row: Row, _: int) -> str:
    return "-" if row.remaining_bytes is None else size(row.remaining_bytes)


def _rate(bytes_per_second: float) -> str:
    return rate(bytes_per_second) if bytes_per_second else "-"


def route(row: Row) -> str:
    """From where to where."""
    return f"{row.summary.source or '?'} → {row.summary.destination or '?'}"


def latest(row: Row) -> str:
    """What happened last, in words."""
    return printable(sentence(row.recent[-1].event)) if row.recent else ""


COLUMNS: Final = (
    Column("STATE", 9, 1, lambda row, _: row.phase.value, number=False),
    Column("TO GO", 8, 1, _left),
    Column("ROUND", 5, 2, lambda row, _: str(row.round or "-")),
    Column("REMAINING", 9, 3, _remaining),
    Column("RATE", 11, 4, lambda row, _: _rate(row.bytes_per_second)),
    Column("STUN", 8, 5, _stun),
    Column("ID", 8, 6, lambda row, _: short_id(row.summary.id), number=False),
    Column("WRITES", 11, 7, lambda row, _: _rate(row.dirty_bytes_per_second)),
    Column("ROUTE", 24, 8, lambda row, _: route(row), number=False),
    Column("LATEST", 60, 9, lambda row, _: latest(row), number=False),
)


def printable(text: str) -> str:
    """Without what a terminal would obey: texts in events may come from anywhere."""
    return "".join(each if each.isprintable() else " " for each in text)


def line(row: Row, now_ns: int) -> str:
    """One change as a line for a pipe."""
    summary = row.summary
    facts = [row.phase.value]
    if row.round:
        facts.append(f"round {row.round}")
    if row.bytes_per_second and row.is_running:
        facts.append(rate(row.bytes_per_second))
    if row.remaining_bytes and row.is_running:
        facts.append(f"{size(row.remaining_bytes)} left")
    if (stun := _stun(row, now_ns)) != "-":
        facts.append(f"stun {stun}")
    if row.is_running and row.remaining_ns(now_ns) is not None:
        facts.append(_to_go(row, now_ns))
    if because := ": ".join(filter(None, (reason(summary.reason), summary.message))):
        facts.append(printable(because))
    name = f"{summary.machine} {short_id(summary.id)} {route(row)}"
    return f"{clock(told_ns(row))}  {name}  {', '.join(facts)}"


def told_ns(row: Row) -> int:
    """When its last change was, by the clock of whoever told it."""
    return row.recent[-1].envelope.wall_ns if row.recent else row.summary.requested_wall_ns


def drawn(
    screen: Screen,
    rows: Sequence[Row],
    width: int,
    height: int,
    now_ns: int,
    left_out: int = 0,
    *,
    connected: bool = True,
) -> list[Text]:
    """The screen's lines, at most ``height``, none wider than ``width``. ``rows``: as filtered;
    ``left_out``: how many older migrations were not read; ``connected``: whether the log answers.
    """
    above = [] if connected else [Text(SILENT, style="bold red")]
    height -= len(above)
    ids = [row.summary.id for row in rows]
    if screen.mode is Mode.DETAIL and screen.chosen in ids:
        lines = detail(rows[ids.index(screen.chosen)], width, height, now_ns)
    else:
        lines = _list(screen, rows, ids, width, height, now_ns)
        if left_out:
            lines[0].append(f", {left_out:,} older left out")
    lines = [*above, *lines]
    for each in lines:
        each.truncate(width, overflow="ellipsis")
    return lines


def page_rows(height: int) -> int:
    """How many rows of the list one sees."""
    return max(height - 3, 1)


def _list(
    screen: Screen, rows: Sequence[Row], ids: Sequence[str], width: int, height: int, now_ns: int
) -> list[Text]:
    columns, name_width = fitting(rows, width)
    at, page = watch_keys.place(screen, ids), page_rows(height)
    first = max(min(at - page // 2, len(rows) - page), 0)
    seen = rows[first : first + page]
    body = [
        _row(row, columns, name_width, now_ns, chosen=first + n == at) for n, row in enumerate(seen)
    ]
    if not rows:
        body = [Text("no migration matches" if screen.filter else "no migration yet", style="dim")]
    keys = KEYS if len(KEYS) <= width else KEYS_SHORT
    return [_title(screen, rows), _heads(columns, name_width), *body, Text(keys, style="dim")]


def _title(screen: Screen, rows: Sequence[Row]) -> Text:
    running = sum(row.is_running for row in rows)
    title = Text.assemble(
        ("godwit ", "bold"), f"{count(len(rows), 'migration')}, {running} running"
    )
    if screen.mode is Mode.FILTER or screen.filter:
        cursor = "_" if screen.mode is Mode.FILTER else ""
        title.append(f" · filter: {screen.filter}{cursor}", style="bold")
    return title


def fitting(rows: Sequence[Row], width: int) -> tuple[list[Column], int]:
    """The columns that fit beside the names, and how wide those may be."""
    longest = max((len(row.summary.machine) for row in rows), default=0)
    left = width - 2 - NAME_MIN
    kept: set[str] = set()
    for column in sorted(COLUMNS, key=lambda each: each.rank):
        if left < column.width + 1:
            break
        kept.add(column.name)
        left -= column.width + 1
    columns = [column for column in COLUMNS if column.name in kept]
    return columns, min(max(longest, NAME_MIN), NAME_MAX, NAME_MIN + max(left, 0))


def _heads(columns: Sequence[Column], name_width: int) -> Text:
    head = Text("  ", style="bold")
    head.append(_cell("MACHINE", name_width, number=False))
    for column in columns:
        head.append(" " + _cell(column.name, column.width, number=column.number))
    return head


def _row(
    row: Row, columns: Sequence[Column], name_width: int, now_ns: int, *, chosen: bool
) -> Text:
    drawn_row = Text("▸ " if chosen else "  ", style="bold" if chosen else "")
    drawn_row.append(_cell(row.summary.machine, name_width, number=False))
    for column in columns:
        style = _STYLES.get(row.phase, "") if column.name == "STATE" else ""
        text = _cell(column.text(row, now_ns), column.width, number=column.number)
        drawn_row.append(" ").append(text, style=style)
    return drawn_row


def _cell(text: str, width: int, *, number: bool) -> str:
    if len(text) > width:
        text = text[: width - 1] + "…"
    return text.rjust(width) if number else text.ljust(width)


def detail(row: Row, width: int, height: int, now_ns: int) -> list[Text]:
    """One migration: its figures, a sparkline a region, its last rounds and events."""
    summary = row.summary
    style = _STYLES.get(row.phase, "")
    head = [
        Text.assemble((summary.machine, "bold"), f"  {route(row)}  {short_id(summary.id)}"),
        *(Text(each, style=style) for each in _in_lines(_figures(row, now_ns), width)),
    ]
    because = ": ".join(filter(None, (reason(summary.reason), summary.message)))
    head += map(Text, wrap(printable(because), width)[:BECAUSE_LINES_MAX])
    head += _regions(row, width)
    events = [
        Text(f"{clock(each.envelope.wall_ns)}  {printable(sentence(each.event))}", style="dim")
        for each in row.recent
    ]
    room = max(height - len(head) - 1, 0)
    events = events[max(len(events) - room, 0) :]
    rounds = _rounds(row, width)
    rounds = rounds[max(len(rounds) + len(events) - room, 0) :]
    return [*head[: height - 1], *rounds, *events, Text("↑↓ next · q back", style="dim")]


def _in_lines(facts: Sequence[str], width: int) -> list[str]:
    """With dots between them, in as many lines as they need."""
    lines = [facts[0]]
    for fact in facts[1:]:
        joined = f"{lines[-1]} · {fact}"
        if len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(fact)
    return lines


def _figures(row: Row, now_ns: int) -> list[str]:
    facts = [row.phase.value]
    if row.round:
        facts.append(f"round {row.round}")
    facts += [
        f"{_remaining(row, now_ns)} left",
        f"{_rate(row.bytes_per_second)} out",
        f"{_rate(row.dirty_bytes_per_second)} written",
        f"stun {_stun(row, now_ns)} of {duration(row.summary.limits.stun_limit_ns)}",
    ]
    if row.is_running:
        facts.append(_to_go(row, now_ns))
    return facts


def _regions(row: Row, width: int) -> list[Text]:
    """What each round sent of a region: a bar a round, each higher by a factor."""
    rounds = [done.figures.bytes_by_region for done in row.summary.rounds][-SPARKS_MAX:]
    names = list(dict.fromkeys(name for each in rounds for name in each))
    most = max((sent for each in rounds for sent in each.values()), default=0)
    room = min(max((len(name) for name in names), default=0), max(width // 3, 8))
    return [
        Text.assemble(
            ("  " + _cell(printable(name), room, number=False) + "  ", "dim"),
            (sparkline([each.get(name, 0) for each in rounds], most), "cyan"),
            f"  {size(rounds[-1].get(name, 0))}",
        )
        for name in names
    ]


def _rounds(row: Row, width: int) -> list[Text]:
    rounds = row.summary.rounds[-ROUND_LINES_MAX:]
    wide = width >= 70
    told = []
    for done in rounds:
        figures = done.figures
        text = (
            f"  {figures.round:>3}  {size(figures.sent_bytes):>9} sent"
            f"  {size(figures.remaining_bytes):>9} left"
        )
        if wide:
            text += f"  {rate(done.bandwidth_bytes_per_second):>11}"
            text += f"  {reason(done.decision)}: {reason(done.reason)}"
        told.append(Text(text))
    return told
