from __future__ import annotations

import contextvars
import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from godwit.runtime import telemetry
from godwit.runtime.choices import LogFormat


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """Everything that a process's logging is, given back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    structured = structlog.get_config()
    yield io.StringIO()
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level
    structlog.configure(**structured)
    structlog.contextvars.clear_contextvars()


def stands_in_its_block() -> Iterator[None]:
    with telemetry.bound(migration="m-1"):
        yield


def lines(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def test_each_line_is_json_with_its_service_and_what_is_bound(output: io.StringIO) -> None:
    telemetry.configure("source_host", logging.INFO, LogFormat.AUTO, output)
    log = structlog.get_logger("godwit")
    with telemetry.bound(host="host-1"), telemetry.bound(migration="m-1", machine="web"):
        log.info("round ended", dirty_pages=7)
    log.debug("not shown")
    log.warning("later")
    first, second = lines(output)
    assert first.pop("time").endswith("Z")
    assert first == {
        "event": "round ended",
        "level": "info",
        "service": "source_host",
        "host": "host-1",
        "migration": "m-1",
        "machine": "web",
        "dirty_pages": 7,
    }
    assert "migration" not in second


def test_the_standard_librarys_logs_and_warnings_go_the_same_way(output: io.StringIO) -> None:
    telemetry.configure("monitor", logging.INFO, LogFormat.JSON, output)
    logging.getLogger("some.library").warning("%d bytes", 7)
    logging.getLogger("nats").info("chatter")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", stacklevel=1)
    shown = lines(output)
    assert shown[0]["event"] == "7 bytes"
    assert "old" in shown[1]["event"]
    assert {line["service"] for line in shown} == {"monitor"}
    assert len(shown) == 2


def test_the_console_form_is_for_people(output: io.StringIO) -> None:
    telemetry.configure("monitor", logging.INFO, LogFormat.CONSOLE, output)
    structlog.get_logger("godwit").info("ready", port=7)
    assert "ready" in output.getvalue()
    assert "port=7" in output.getvalue()


def test_an_exception_stays_one_line_of_json(output: io.StringIO) -> None:
    telemetry.configure("monitor", logging.INFO, LogFormat.JSON, output)
    error = ValueError("bad")
    structlog.get_logger("godwit").critical("defect", exc_info=error)
    (line,) = lines(output)
    assert line["exception"][0]["exc_value"] == "bad"


def test_a_block_left_in_another_context_binds_nothing_there(output: io.StringIO) -> None:
    telemetry.configure("coordinator", logging.INFO, LogFormat.AUTO, output)
    with telemetry.bound(migration="m-0"):
        begun_in = contextvars.copy_context()
    abandoned = stands_in_its_block()
    begun_in.run(next, abandoned)
    del abandoned
    structlog.get_logger("godwit").info("later")
    assert "migration" not in lines(output)[0]
