"""Ids sort by time and are checked; each subject lies in the stream that is said to hold it."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from godwit_protocol import ids, subjects
from godwit_protocol.errors import InvalidInputError

NOW_NS = st.integers(0, 2**63 - 1)
RANDOM = st.binary(min_size=10, max_size=10)


@given(NOW_NS, RANDOM)
def test_a_uuid7_is_one_to_the_standard_library_too(now_ns: int, random: bytes) -> None:
    text = ids.uuid7(now_ns, random)
    parsed = uuid.UUID(text)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == now_ns // 1_000_000
    assert ids.UUID7_PATTERN.fullmatch(text)


@given(NOW_NS, NOW_NS, RANDOM, RANDOM)
def test_ids_of_a_later_millisecond_sort_later(a: int, b: int, one: bytes, two: bytes) -> None:
    early, late = sorted((a, b))
    if early // 1_000_000 < late // 1_000_000:
        assert ids.uuid7(early, one) < ids.uuid7(late, two)


@given(NOW_NS, RANDOM, st.integers(6, 79))
def test_each_bit_of_randomness_that_fits_counts(now_ns: int, random: bytes, bit: int) -> None:
    position = bit if bit >= 68 else bit - 6
    flipped = int.from_bytes(random, "big") ^ (1 << position)
    other = flipped.to_bytes(10, "big")
    assert ids.uuid7(now_ns, random) != ids.uuid7(now_ns, other)


def test_what_is_no_id_does_not_look_like_one() -> None:
    good = ids.uuid7(1, b"0123456789")
    for bad in ("", good.upper(), good[:-1], good + "\n", good.replace("-7", "-4", 1), "x.>"):
        assert not ids.UUID7_PATTERN.fullmatch(bad)


def test_fewer_random_bytes_make_no_id() -> None:
    with pytest.raises(ValueError, match="10 random bytes"):
        ids.uuid7(1, b"short")


NAMES = ["a", "host-1", "0", "a" * 63]
BAD_NAMES = ["", "A", "-a", "a-", "a.b", "a b", "a" * 64, "ü", "*", ">", "a\n", "a/b"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_can_stand_in_a_subject(name: str) -> None:
    assert subjects.checked_name(name, "machine") == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_cannot(name: str) -> None:
    with pytest.raises(InvalidInputError, match="machine"):
        subjects.checked_name(name, "machine")


MADE = {
    subjects.migration("id", "source", "go_given"): subjects.EVENTS,
    subjects.machine("m1", "source", "machine_started"): subjects.EVENTS,
    subjects.addressed("h", "source_host", "migration", "id", "source", "t"): subjects.EVENTS,
    subjects.addressed("h", "source_host", "machine", "m1", "operator", "t"): subjects.EVENTS,
    subjects.inventory("h"): subjects.EVENTS,
    subjects.register("m1"): subjects.REGISTER,
    subjects.claim("m1"): subjects.REGISTER,
    subjects.ledger("h"): subjects.LEDGER,
    subjects.guest_request("m1"): subjects.GUEST,
    subjects.guest_reply("m1"): subjects.GUEST,
    subjects.beginning("coordinator"): subjects.BEGINNINGS,
    subjects.telemetry("migration", "id", "progress"): subjects.TELEMETRY,
}


def matches(pattern: str, subject: str) -> bool:
    """NATS' own rule: ``*`` is one token, ``>`` is one or more at the end."""
    wanted, found = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(found) >= len(wanted) and matches(
            ".".join(wanted[:-1]), ".".join(found[: len(wanted) - 1])
        )
    pairs = zip(wanted, found, strict=False)
    return len(wanted) == len(found) and all(a in ("*", b) for a, b in pairs)


@pytest.mark.parametrize(("subject", "stream"), MADE.items())
def test_each_subject_lies_in_one_stream_and_it_is_the_one_named(subject: str, stream: str) -> None:
    holding = [
        name
        for name, patterns in subjects.STREAM_SUBJECTS.items()
        if any(matches(pattern, subject) for pattern in patterns)
    ]
    assert holding == [stream] == [subjects.stream_of(subject)]


def test_filters_find_what_they_are_for_and_nothing_else() -> None:
    found = {
        subject
        for subject in MADE
        if any(matches(pattern, subject) for pattern in subjects.whole_migration("id"))
    }
    assert found == {
        subjects.migration("id", "source", "go_given"),
        subjects.addressed("h", "source_host", "migration", "id", "source", "t"),
    }
    of_machine = [
        subject
        for subject in MADE
        if any(matches(pattern, subject) for pattern in subjects.whole_machine("m1"))
    ]
    assert len(of_machine) == 2
    inbox = subjects.inbox("h", "source_host")
    assert sum(matches(inbox, subject) for subject in MADE) == 2
    assert not matches(subjects.inbox("h", "destination_host"), next(iter(MADE)))


@pytest.mark.parametrize(
    "subject", ["", "godwit.v1", "godwit.v1.nothing.x", "godwit.v2.register.m1"]
)
def test_a_subject_of_no_stream_is_refused(subject: str) -> None:
    with pytest.raises(InvalidInputError, match="no stream"):
        subjects.stream_of(subject)


TOKENS = st.sampled_from(["a", "b", "a+", "*"])
FILTERS = st.builds(
    lambda tokens, end: ".".join([*tokens, *end]),
    st.lists(TOKENS, min_size=1, max_size=3),
    st.sampled_from([[], [">"]]),
)


@given(
    st.lists(FILTERS, max_size=3),
    st.lists(st.sampled_from(["a", "b", "a+", "aa"]), min_size=1, max_size=4),
)
def test_filters_together_give_what_one_of_them_gives(
    filters: list[str], tokens: list[str]
) -> None:
    given_by_one = any(subjects.matches(each.split("."), tokens) for each in filters)
    assert bool(subjects.filter_of(filters)(".".join(tokens))) == given_by_one
