"""Which modules are mutated, and which tests their mutants meet, from the fastest to the slowest.

The cores are pure; the shells are those that hold a guard of the switchover. It must not know what
a mutant is, nor how it is tried.
"""

from __future__ import annotations

from typing import Final, NamedTuple

Stages = tuple[tuple[str, ...], ...]
"""Tests, as pytest takes them: all mutants meet the first stage, and survivors the next one."""


class Group(NamedTuple):
    """Modules that the same tests exercise."""

    modules: tuple[str, ...]
    """Of the protocol; those of the services by their full names."""
    stages: Stages


CORES: Final = Group(
    (
        "register",
        "roles.source",
        "roles.source_copying",
        "roles.source_deciding",
        "roles.source_endings",
        "roles.source_state",
        "roles.destination",
        "roles.destination_receiving",
        "roles.destination_deciding",
        "roles.destination_endings",
        "roles.destination_state",
        "roles.recovery",
        "roles.succession",
        "roles.table",
        "roles.coordinator",
        "roles.coordinator_state",
        "roles.coordinator_facts",
        "roles.tracker",
        "ledger",
    ),
    (
        (
            "tests/stateful/test_steps.py",
            "tests/stateful/test_golden.py",
            "tests/stateful/test_role_tables.py",
            "tests/stateful/test_limits_told.py",
            "tests/stateful/test_lost_machines.py",
            "tests/protocol/test_register.py",
            "tests/protocol/test_fate.py",
            "tests/protocol/test_ledger.py",
            "tests/protocol/test_ledger_decisions.py",
            "tests/protocol/test_ledger_fold.py",
            "tests/protocol/test_coordinator_facts.py",
            "tests/protocol/test_tracker_steps.py",
            "tests/stateful/test_bandwidth.py",
            "tests/stateful/test_tracker_machine.py",
            "tests/simulation/test_past_failures.py",
        ),
        ("tests/stateful/test_migration_machine.py",),
        ("tests/stateful/test_transitions.py",),
        ("tests/proof/test_checker.py", "tests/proof/test_flushes.py"),
    ),
)
JOURNALS: Final = Group(
    ("godwit.runtime.journal", "godwit.host.disk"),
    (
        (
            "tests/runtime/test_journal.py",
            "tests/runtime/test_journal_power.py",
            "tests/host/test_host_files.py",
            "tests/host/test_end_power.py",
            "tests/host/test_full_disk.py",
        ),
    ),
)
SIDES: Final = Group(
    (
        "godwit.host.role",
        "godwit.host.side",
        "godwit.host.registers",
        "godwit.host.facts",
        "godwit.host.journals",
        "godwit.host.peer_fence",
        "godwit.source_host.departure",
        "godwit.destination_host.arrival",
        "godwit.coordinator.losses",
    ),
    (
        (
            "tests/host/test_arrival.py",
            "tests/host/test_departure.py",
            "tests/host/test_fact_writer.py",
            "tests/host/test_freeing.py",
            "tests/host/test_gate.py",
            "tests/host/test_held_facts.py",
            "tests/host/test_journals.py",
            "tests/host/test_orders.py",
            "tests/host/test_peer_fence.py",
            "tests/host/test_registers.py",
            "tests/host/test_rehearsal.py",
            "tests/host/test_role.py",
            "tests/host/test_what_is_ended.py",
            "tests/services/test_losses.py",
        ),
        (
            "tests/simulation/test_before_the_stun.py",
            "tests/simulation/test_catches.py",
            "tests/simulation/test_deaths.py",
            "tests/simulation/test_full_disks.py",
            "tests/simulation/test_log_away.py",
            "tests/simulation/test_lost_writes.py",
            "tests/simulation/test_past_failures.py",
            "tests/simulation/test_slow_moves.py",
            "tests/simulation/test_staging.py",
            "tests/simulation/test_stun_near.py",
            "tests/simulation/test_told_first.py",
            "tests/simulation/test_variables.py",
            "tests/simulation/test_what_peers_say.py",
        ),
    ),
)
VMM: Final = Group(
    ("godwit.hypervisor.native.vmm",),
    (
        ("tests/hypervisor/test_orders_of_the_vmm.py",),
        (
            "tests/hypervisor/test_life_cycle.py",
            "--deselect=tests/hypervisor/test_life_cycle.py"
            "::test_pause_and_gate_take_far_less_than_a_stun",
        ),
    ),
)
"""The second stage starts real ones. What times them is left out: the machine may be busy."""
HOST_SERVICES: Final = Group(
    ("godwit.destination_host.service",),
    (("tests/host/test_destination_service.py",),),
)
ORDERS: Final = Group(
    ("godwit.host.orders", "godwit.host.fencing", "godwit.host.freeing"),
    (
        (
            "tests/host/test_late_orders.py",
            "tests/host/test_fencing.py",
            "tests/host/test_freeing.py",
        ),
    ),
)
COORDINATOR: Final = Group(
    ("godwit.coordinator.claims", "godwit.coordinator.conductor"),
    (("tests/services/test_claims.py", "tests/services/test_conductor.py"),),
)
GROUPS: Final = (CORES, JOURNALS, SIDES, HOST_SERVICES, ORDERS, COORDINATOR, VMM)
STAGES_MAX: Final = max(len(group.stages) for group in GROUPS)


def is_shell(module: str) -> bool:
    """Whether it is one of the services."""
    return module.startswith("godwit.")


def full_name(module: str) -> str:
    """As it is imported."""
    return module if is_shell(module) else f"godwit_protocol.{module}"
