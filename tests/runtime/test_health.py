from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from godwit.runtime import health as health_module
from godwit.runtime.health import CONNECTIONS_MAX, REQUEST_BYTES_MAX, Health, Page
from godwit_protocol.errors import InvalidInputError


@pytest_asyncio.fixture
async def health(tmp_path: Path) -> AsyncIterator[Health]:
    served = Health("coordinator")
    await served.start("127.0.0.1", 0, tmp_path)
    yield served
    await served.close()


def address(directory: Path) -> tuple[str, int]:
    told = json.loads((directory / "health.json").read_text())
    return told["host"], told["port"]


async def talk(directory: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address(directory))
    async with asyncio.timeout(5):
        writer.write(request)
        await writer.drain()
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def get(directory: Path) -> tuple[int, dict[str, Any]]:
    answer = await talk(directory, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def test_a_service_is_well_when_it_is_ready_and_every_check_is(
    health: Health, tmp_path: Path
) -> None:
    trouble = ""
    health.add_check("event_log", lambda: trouble)
    assert (await get(tmp_path))[0] == 503
    health.ready = True
    assert await get(tmp_path) == (
        200,
        {"service": "coordinator", "ready": True, "checks": {"event_log": ""}},
    )
    trouble = "not connected"
    status, body = await get(tmp_path)
    assert status == 503
    assert body["checks"] == {"event_log": "not connected"}


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET / HTTP/1.1", b"404"),
        (b"POST /healthz HTTP/1.1", b"405"),
        (b"GET /healthz?x=1 HTTP/1.1", b"503"),
        (b"\xff\xfe", b"404"),
    ],
)
async def test_only_the_one_question_is_answered(
    health: Health, tmp_path: Path, request_line: bytes, status: bytes
) -> None:
    answer = await talk(tmp_path, request_line + b"\r\n\r\n")
    assert answer.split()[1] == status


async def test_a_page_is_made_piece_by_piece_while_the_loop_goes_on(
    health: Health, tmp_path: Path
) -> None:
    turns: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(3):
            asyncio.get_running_loop().call_soon(turns.append, number)
            assert len(turns) == number, "each piece waits for what was due before it"
            yield b"%d\n" % number

    health.add_page("/metrics", Page("text/plain", pieces))
    answer = await talk(tmp_path, b"GET /metrics HTTP/1.1\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.splitlines()[:2] == [b"HTTP/1.1 200 OK", b"Content-Type: text/plain"]
    assert body == b"0\n1\n2\n"
    other = await talk(tmp_path, b"GET /metric HTTP/1.1\r\n\r\n")
    assert b"only /healthz, /metrics is here" in other


async def test_head_has_no_body(health: Health, tmp_path: Path) -> None:
    answer = await talk(tmp_path, b"HEAD /healthz HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")


async def test_a_request_too_long_is_cut_off(health: Health, tmp_path: Path) -> None:
    try:
        answer = await talk(tmp_path, b"x" * (4 * REQUEST_BYTES_MAX))
    except ConnectionResetError:
        answer = b""
    assert answer == b""
    assert (await get(tmp_path))[0] == 503


async def test_silent_clients_are_bounded_in_number_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "REQUEST_S_MAX", 0.5)
    health = Health("coordinator")
    await health.start("127.0.0.1", 0, tmp_path)
    silent = [await asyncio.open_connection(*address(tmp_path)) for _ in range(CONNECTIONS_MAX)]
    assert await talk(tmp_path, b"") == b"", "one too many"
    async with asyncio.timeout(5):
        assert [await reader.read() for reader, _ in silent] == [b""] * CONNECTIONS_MAX
    assert (await get(tmp_path))[0] == 503
    for _, writer in silent:
        writer.close()
        await writer.wait_closed()
    await health.close()


async def test_an_address_in_use_is_refused_with_a_remedy(health: Health, tmp_path: Path) -> None:
    host, port = address(tmp_path)
    with pytest.raises(InvalidInputError, match=str(port)) as refusal:
        await Health("other").start(host, port, tmp_path / "other")
    assert "GODWIT_HEALTH_PORT" in refusal.value.hint


async def test_after_closing_the_address_is_gone(tmp_path: Path) -> None:
    health = Health("monitor")
    await health.start("127.0.0.1", 0, tmp_path)
    await health.close()
    assert not (tmp_path / "health.json").exists()
