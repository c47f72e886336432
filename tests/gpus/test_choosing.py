"""Where a host's GPUs come from, and what is said when there is no driver."""

from __future__ import annotations

import subprocess
import sys

import pytest
import synthetic as nv
from structlog.testing import capture_logs

from godwit.catalogue.loading import load as load_catalogue
from godwit.gpus.choosing import open_gpus
from godwit.gpus.library import NvmlError
from godwit.gpus.nvml import NvmlGpus
from godwit.gpus.port import GpuSource
from godwit.runtime.config import Service, load
from godwit.runtime.variable import ConfigError
from godwit_protocol.errors import InvalidInputError, UnsupportedError
from godwit_protocol.facts import Setting
from nvml_player import Player, synthetic

CATALOGUE = load_catalogue()


def opened(status: int | None = 12, **variables: str) -> GpuSource:
    """The GPUs of a host on which NVML's library opens with ``status``; None: it opens."""

    def library() -> Player:
        if status is not None:
            raise NvmlError("nvmlInit", status, f"status {status}")
        return Player(synthetic(nv.host(nv.gpu(0))))

    config = load(Service.SOURCE_HOST, {"GODWIT_HOST": "host-1", **variables})
    return open_gpus(config, CATALOGUE, library)


@pytest.mark.parametrize("status", [12, 9])
async def test_without_a_driver_they_are_simulated_and_the_log_says_so(status: int) -> None:
    with capture_logs() as logs:
        source = opened(status, GODWIT_GPUS="H100-80GB:2,L40S-48GB")
    assert logs == [
        {
            "event": "gpus_are_simulated",
            "because": f"status {status}",
            "gpus": 3,
            "log_level": "info",
        }
    ]
    assert source.simulated
    seen = await source.look()
    assert [(gpu.model, gpu.simulated) for gpu in seen.gpus] == [
        ("H100-80GB", True),
        ("H100-80GB", True),
        ("L40S-48GB", True),
    ]
    assert "simulated" in seen.driver
    assert all(gpu.facts and "simulated" in gpu.facts.board for gpu in seen.gpus)
    assert [gpu.nvlink_peers for gpu in seen.gpus] == [(1,), (0,), ()]
    assert seen.telemetry == ()
    assert await source.judge([b"any"]) == ()


async def test_with_a_driver_what_is_configured_does_not_count() -> None:
    seen = await opened(None, GODWIT_GPUS="H100-80GB:8").look()
    assert [gpu.simulated for gpu in seen.gpus] == [False]


async def test_a_broken_driver_is_no_reason_to_simulate() -> None:
    source = opened(18, GODWIT_GPUS="H100-80GB:8")
    assert isinstance(source, NvmlGpus)
    seen = await source.look()
    assert (seen.gpus, seen.unreadable) == ((), ("nvmlInit: status 18",))


async def test_simulated_gpus_can_be_wanted_where_a_driver_is() -> None:
    source = opened(None, GODWIT_GPU_ORIGIN="simulated", GODWIT_GPUS="H100-80GB")
    assert [gpu.simulated for gpu in (await source.look()).gpus] == [True]


def test_nvml_can_be_demanded() -> None:
    with pytest.raises(UnsupportedError, match="status 12"):
        opened(12, GODWIT_GPU_ORIGIN="nvml")


def test_a_model_that_the_catalogue_lacks_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="H999"):
        opened(12, GODWIT_GPUS="H999")


async def test_what_simulated_gpus_tell_can_be_declared() -> None:
    told = opened(GODWIT_GPUS="H100-80GB", GODWIT_GPU_FACTS="ecc=off,debugger=on,driver=550.90")
    seen = await told.look()
    facts = seen.gpus[0].facts
    assert facts is not None
    assert (facts.ecc, facts.debugger, facts.profiler) == (Setting.OFF, Setting.ON, Setting.OFF)
    assert seen.driver == "550.90"


@pytest.mark.parametrize("text", ["ecc", "ecc=", "ecc=maybe", "colour=red", "=on"])
def test_facts_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="GODWIT_GPU_FACTS"):
        opened(GODWIT_GPU_FACTS=text)


def test_there_is_nothing_to_record_without_a_driver() -> None:
    command = [sys.executable, "-m", "godwit.gpus.record"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode == 0:
        assert '"origin": "recorded"' in ended.stdout
    else:
        assert ended.returncode == UnsupportedError.exit_code
        assert "nothing to record" in ended.stderr
