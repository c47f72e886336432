"""What a machine may be made of."""

from __future__ import annotations

import msgspec
import pytest

from godwit_protocol.errors import InvalidInputError
from godwit_protocol.machine import PAGE_BYTES, VGPUS_MAX, MachineSpec, VGpuSpec

SPEC = MachineSpec(name="m", guest="a:B", ram_bytes=PAGE_BYTES)


def test_a_machine_has_no_more_vgpus_than_its_memory_can_be_passed_on() -> None:
    vgpu = VGpuSpec("H100XM-4C", PAGE_BYTES)
    most = msgspec.structs.replace(SPEC, vgpus=(vgpu,) * VGPUS_MAX)
    assert most.checked() is most
    with pytest.raises(InvalidInputError, match="64 vGPUs"):
        msgspec.structs.replace(SPEC, vgpus=(vgpu,) * (VGPUS_MAX + 1)).checked()


@pytest.mark.parametrize("env", [{"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {"A": "x\0y"}])
def test_a_variable_that_no_process_can_be_given_is_refused(env: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="variable"):
        msgspec.structs.replace(SPEC, env=env).checked()
    usual = msgspec.structs.replace(SPEC, env={"A": "x=y", "B": ""})
    assert usual.checked() is usual
