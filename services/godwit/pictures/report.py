"""``godwit replay report``: one migration as a page that needs nothing else and prints well.

Pure: text in, HTML out. No script, no font, no picture from anywhere; every text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

import msgspec

from godwit_protocol.estimation.policies import Policy
from godwit_protocol.events import migration as ev
from godwit_protocol.projections import MigrationSummary
from godwit_protocol.replay.client_gap import ClientGap
from godwit_protocol.replay.findings import Verification
from godwit_protocol.replay.timeline import Moment, Timeline
from godwit_protocol.replay.what_if import Move, Setting, as_recorded, what_if

from . import courses
from .courses import RULES
from .figures import clock, count, day_and_clock, duration, rate, size
from .narrative import Narrator, reason
from .standing import standing
from .stun import stun, stun_parts

LINKS_BYTES_PER_SECOND: Final = (125e6, 1.25e9, 3.125e9, 12.5e9)
"""1, 10, 25 and 100 Gbit/s: what the page plays the move over."""
OTHERS: Final = tuple(policy for policy in Policy if policy is not Policy.GODWIT)

STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; print-color-adjust: exact }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100%; font-size: .85rem }
caption { text-align: left; color: #555; padding-bottom: .3rem }
th { text-align: left; border-bottom: 1px solid #888 } td, th { padding: .15rem .6rem .15rem 0;
  vertical-align: top } td.n, th.n { text-align: right; white-space: nowrap }
tr.source td:nth-child(3) { color: #7a3b00 } tr.destination td:nth-child(3) { color: #00507a }
small { color: #555 } .bar { fill: #4477aa }
td:last-child { overflow-wrap: anywhere }
.wrong { color: #a00000; font-weight: bold }
.alarm { border: 2px solid #a00000; padding: .4rem .6rem; font-weight: bold }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem }
dt { color: #555 } dd { margin: 0 }
@media print { body { margin: 0; padding: 0; font-size: 10pt } tr { break-inside: avoid }
  h2 { break-after: avoid } }
"""


def page(
    told: Timeline, verified: Verification, move: Move | None, gap: ClientGap | None = None
) -> str:
    """The page. ``move`` None: nothing was copied, there is nothing to play; ``gap`` None: nobody
    asked the machine anything meanwhile, or this log does not hold it.
    """
    summary = told.summary
    title = f"Migration of {summary.machine}: {reason(summary.outcome)}"
    body = "".join(
        (
            f"<h1>{escape(title)}</h1>",
            _standing(summary),
            _facts(summary, gap),
            _story(told.moments),
            _rounds(summary.rounds),
            _stun(summary),
            _otherwise(move),
            _proof(verified),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def _standing(summary: MigrationSummary) -> str:
    alarm = ' class="alarm"' if summary.outcome is ev.Outcome.IN_DOUBT else ""
    where = standing(summary)
    return f"<p{alarm}>{escape(where)}</p>" if where else ""


def _facts(summary: MigrationSummary, gap: ClientGap | None) -> str:
    because = ": ".join(filter(None, (reason(summary.reason), summary.message)))
    facts = [
        ("migration", summary.id),
        ("from, to", f"{summary.source or '?'} → {summary.destination or '?'}"),
        ("asked for", day_and_clock(summary.requested_wall_ns)),
        ("outcome", reason(summary.outcome) + (f" ({because})" if because else "")),
        ("took", duration(summary.duration_ns) if summary.ended_wall_ns else "it has not ended"),
        ("sent", f"{size(summary.sent_bytes)} in {count(len(summary.rounds), 'round')}"),
        ("held there already", size(summary.content_bytes)),
        ("saved by compression", size(summary.compression_bytes)),
        ("stun", stun(summary)),
    ]
    if gap is not None:
        told = f"at most {duration(gap.gap_ns)} without one, of {gap.replies:,} replies"
        facts.append(("clients' replies", told))
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f"<dl>{rows}</dl>"


def _story(moments: Iterable[Moment]) -> str:
    narrator = Narrator()
    rows = "".join(_moment(moment, narrator) for moment in moments)
    return (
        "<h2>What happened</h2><table><caption>In causal order, each by its place in the log;"
        " times are the writers' clocks, UTC.</caption>"
        "<thead><tr><th class=n>#</th><th>time</th><th>who</th><th>what</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _moment(moment: Moment, narrator: Narrator) -> str:
    recorded, cause, step = moment
    envelope = recorded.envelope
    because = f"because of {cause.sequence}, {reason(cause.envelope.type)}" if cause else ""
    moved = f"{step.before} → {step.after}" if step and step.before != step.after else ""
    under = "; ".join(filter(None, (because, moved)))
    small = f"<br><small>{escape(under)}</small>" if under else ""
    return (
        f'<tr class="{escape(envelope.lane)}"><td class=n>{recorded.sequence}</td>'
        f"<td>{clock(envelope.wall_ns)}</td><td>{escape(f'{envelope.lane}@{envelope.host}')}</td>"
        f"<td>{escape(narrator.tell(recorded))}{small}</td></tr>"
    )


def _rounds(rounds: Sequence[ev.RoundCompleted]) -> str:
    if not rounds:
        return ""
    most = max(1, *(done.figures.remaining_bytes for done in rounds))
    rows = [
        (
            str(done.figures.round),
            size(done.figures.sent_bytes),
            duration(done.figures.duration_ns),
            rate(done.bandwidth_bytes_per_second),
            rate(done.dirty_bytes_per_second),
            size(done.figures.remaining_bytes),
            duration(done.stun_bound_ns),
            f"{reason(done.decision)}: {reason(done.reason)}",
        )
        for done in rounds
    ]
    bars = [_bar(done.figures.remaining_bytes / most) for done in rounds]
    heads = (
        "round",
        "sent",
        "took",
        "link",
        "writes",
        "left",
        "stun bound",
        "decided",
        "share left",
    )
    return "<h2>Rounds</h2>" + _table(heads, rows, bars)


def _stun(summary: MigrationSummary) -> str:
    parts = summary.marks.parts_ns()
    if not parts:
        return ""
    whole = max(summary.stun_ns or 0, *parts.values(), 1)
    rows = stun_parts(summary)
    bars = [_bar(parts.get(part, 0) / whole) for part, _ in rows]
    return "<h2>The stun, taken apart</h2>" + _table(("part", "took", "share"), rows, bars)


def _otherwise(move: Move | None) -> str:
    if move is None:
        return ""
    limits = move.started.limits
    half = msgspec.structs.replace(limits, stun_limit_ns=limits.stun_limit_ns // 2)
    settings = [
        *(
            (f"at {rate(link)}", Setting(limits=limits, link_bytes_per_second=link))
            for link in LINKS_BYTES_PER_SECOND
        ),
        ("half the stun limit", Setting(limits=half)),
        *((RULES[each], Setting(limits=limits, policy=each)) for each in OTHERS),
    ]
    recorded = as_recorded(move)
    played = [(name, what_if(move, setting)) for name, setting in settings]
    rows = [
        ("as recorded", *courses.figures(recorded, move)),
        *((name, *courses.figures(course, move)) for name, course in played),
    ]
    drawn = courses.bars([recorded, *(course for _, course in played)])
    heads = ("setting", *courses.HEADS, "left after each round")
    told = [(*row, bars) for row, bars in zip(rows, drawn, strict=True)]
    about = (
        "<p><small>What the machine wrote is played again under other settings; what went wrong on"
        " the way is not: a row says what the move would have taken, and not whether it would have"
        " come to the end that this one did.</small></p>"
    )
    return f"<h2>What if</h2>{about}" + _table(heads, told, [])


def _proof(verified: Verification) -> str:
    wrong = "".join(
        f'<li class="wrong">wrong: {escape(str(each))}</li>' for each in verified.faults
    )
    proven = "".join(f"<li>proven: {escape(text)}</li>" for text in verified.proven)
    unproven = "".join(f"<li>not proven: {escape(text)}</li>" for text in verified.unproven)
    return f"<h2>Verification</h2><ul>{wrong}{proven}{unproven}</ul>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], bars: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = ""
    for place, row in enumerate(rows):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        body += f"<tr>{cells}{f'<td>{bars[place]}</td>' if bars else ''}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _bar(share: float) -> str:
    """Without a style of its own, which the monitor's policy would forbid."""
    size = f'width="{max(share, 0.0) * 9:.2f}em" height=".7em"'
    return f'<svg class="bar" aria-hidden="true" {size}><rect width="100%" height="100%"/></svg>'
