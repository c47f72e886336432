"""The log's client goes without aiohttp until a URL asks for WebSockets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import guarded_server
from godwit.runtime.nats_log import NatsLog
from nats_cluster import free_port


@pytest.mark.parametrize("module", ["godwit.hypervisor.native.vmm", "godwit.host.context"])
def test_a_process_starts_without_aiohttp_and_can_still_import_it(module: str) -> None:
    look = f"import sys, {module}; print('aiohttp' in sys.modules); import aiohttp.web"
    told = subprocess.run(
        [sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=60
    )
    assert told.stdout == "False\n"


# The NATS client passes aiohttp a timeout as it was passed in former releases.
@pytest.mark.filterwarnings("ignore:parameter 'timeout':DeprecationWarning")
async def test_a_log_is_reached_by_websockets(tmp_path: Path) -> None:
    port = free_port()
    listening = f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true }}\n'
    async with guarded_server.running(tmp_path, also=listening):
        log = await NatsLog.connect(f"ws://godwit:owner@127.0.0.1:{port}", name="test")
        assert log.is_connected
        await log.close()
