"""The ``GODWIT_*`` variables: one table that is parsed, checked and documented.

A field of ``Config`` carries the variable's name, form, default and meaning; ``rows`` gives the
table to the docs. Knows the environment only as a mapping; nothing else may read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from godwit_protocol.compression import CompressionPolicy
from godwit_protocol.errors import InvalidInputError
from godwit_protocol.estimation.admission import AdmissionPolicy
from godwit_protocol.facts import DeclaredFacts
from godwit_protocol.pacing import parse_bandwidth
from godwit_protocol.quantities import parse_duration_ns

from . import places, values
from .choices import DirtyTracking, GpuOrigin, LogFormat, Retention
from .values import GPUS_MAX
from .variable import ConfigError, Variable, VariableRow

PORT_MAX: Final = 65535
BULK_CONNECTIONS_MAX: Final = 64
_METADATA_KEY: Final = "variable"


class Service(StrEnum):
    """What reads a configuration."""

    COORDINATOR = "coordinator"
    SOURCE_HOST = "source_host"
    DESTINATION_HOST = "destination_host"
    GPU_STATE_TRACKER = "gpu_state_tracker"
    MONITOR = "monitor"
    PROVISION = "provision"
    COMMAND = "godwit"


_ALL: Final = frozenset(Service)
_SERVICES: Final = _ALL - {Service.COMMAND, Service.PROVISION}
WRITERS: Final = _SERVICES - {Service.MONITOR}
HOST_SERVICES: Final = frozenset({Service.SOURCE_HOST, Service.DESTINATION_HOST})


def _variable(
    name: str,
    parse: Callable[[str], Any],
    allowed: str,
    default: str | Callable[[Mapping[str, str]], str],
    doc: str,
    *,
    default_shown: str | None = None,
    read_by: frozenset[Service] = _SERVICES,
    required_by: frozenset[Service] = frozenset(),
) -> Mapping[str, Variable]:
    literal = default if isinstance(default, str) else ""
    compute = (lambda _: literal) if isinstance(default, str) else default
    shown = literal if default_shown is None else default_shown
    variable = Variable(name, parse, allowed, compute, shown, doc, read_by, required_by)
    return {_METADATA_KEY: variable}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A process's configuration, checked: of each service, what that service reads."""

    nats_url: str = field(
        metadata=_variable(
            "GODWIT_NATS_URL",
            values.url,
            "a URL like nats://127.0.0.1:4222, or several with commas between",
            "nats://127.0.0.1:4222",
            "The NATS server, or the servers of one cluster, that hold the event log.",
            read_by=_ALL,
        )
    )
    nats_replicas: int = field(
        metadata=_variable(
            "GODWIT_NATS_REPLICAS",
            values.whole_number(1, 5),
            "1 to 5",
            "1",
            "How many servers keep each message: 1 on a single server, else 3 or 5.",
            read_by=frozenset({Service.PROVISION}),
        )
    )
    retention: Retention = field(
        metadata=_variable(
            "GODWIT_RETENTION",
            Retention,
            "keep or archive",
            "keep",
            "Whether the events' stream is made so that a migration may leave it for an archive"
            " (docs/archive.md); keep cannot be taken back.",
            read_by=frozenset({Service.PROVISION}),
        )
    )
    directory: Path = field(
        metadata=_variable(
            "GODWIT_DIR",
            values.absolute_path,
            "a directory",
            places.directory,
            "Where a local cluster keeps its files, and where commands look for it.",
            default_shown="$XDG_RUNTIME_DIR/godwit, else /tmp/godwit-$UID",
            read_by=_ALL,
        )
    )
    host: str = field(
        metadata=_variable(
            "GODWIT_HOST",
            values.name_or_nothing,
            "this host's name: 1 to 63 of a-z, 0-9 and '-'",
            "",
            "The name of the host that the service belongs to.",
            default_shown="(must be set)",
            read_by=HOST_SERVICES,
            required_by=HOST_SERVICES,
        )
    )
    host_directory: Path = field(
        metadata=_variable(
            "GODWIT_HOST_DIR",
            values.absolute_path,
            "a directory",
            places.host_directory,
            "Where a host keeps its journals and its machines' sockets. Its two services share it,"
            " and it must survive their restarts.",
            default_shown="$GODWIT_DIR/hosts/$GODWIT_HOST",
            read_by=HOST_SERVICES,
        )
    )
    gpus: tuple[str, ...] = field(
        metadata=_variable(
            "GODWIT_GPUS",
            values.gpus,
            f"MODEL:COUNT,… of models in the catalogue (docs/gpus.md), at most {GPUS_MAX} GPUs",
            "",
            "The host's simulated GPUs, such as H100-80GB:2; they count where there is no driver."
            " Empty: none.",
            default_shown="(none)",
            read_by=frozenset({Service.SOURCE_HOST}),
        )
    )
    gpu_origin: GpuOrigin = field(
        metadata=_variable(
            "GODWIT_GPU_ORIGIN",
            GpuOrigin,
            "auto, nvml or simulated",
            "auto",
            "Where the host's GPUs come from: auto is NVML where a driver is there, else simulated"
            " as GODWIT_GPUS says.",
            read_by=frozenset({Service.SOURCE_HOST}),
        )
    )
    gpu_facts: DeclaredFacts = field(
        metadata=_variable(
            "GODWIT_GPU_FACTS",
            values.gpu_facts,
            "NAME=on or NAME=off of unified_memory, debugger, profiler, ecc, and driver=VERSION,"
            " with commas between",
            "",
            "What NVML cannot tell of the vGPUs here (the first three), and what simulated GPUs"
            " tell instead of the usual (all of them).",
            default_shown="(none)",
            read_by=frozenset({Service.SOURCE_HOST}),
        )
    )
    catalogue_file: Path | None = field(
        metadata=_variable(
            "GODWIT_CATALOGUE",
            values.path_or_nothing,
            "a .toml file, or a folder of them",
            "",
            "A site's own GPU models, beside those that come with Godwit (docs/gpus.md).",
            default_shown="(none)",
            read_by=frozenset(
                {
                    Service.COORDINATOR,
                    Service.SOURCE_HOST,
                    Service.GPU_STATE_TRACKER,
                    Service.MONITOR,
                    Service.COMMAND,
                }
            ),
        )
    )
    link_host: str = field(
        metadata=_variable(
            "GODWIT_LINK_HOST",
            values.address,
            "an address or a name that other hosts reach",
            "127.0.0.1",
            "Where the destination listens for the direct link, and what it announces.",
            read_by=HOST_SERVICES,
        )
    )
    link_port: int = field(
        metadata=_variable(
            "GODWIT_LINK_PORT",
            values.whole_number(0, PORT_MAX),
            f"0 to {PORT_MAX}",
            "0",
            "The direct link's port; 0 takes any free one.",
            read_by=frozenset({Service.DESTINATION_HOST}),
        )
    )
    bulk_connections: int = field(
        metadata=_variable(
            "GODWIT_BULK_CONNECTIONS",
            values.number_or_auto(1, BULK_CONNECTIONS_MAX),
            f"auto, or 1 to {BULK_CONNECTIONS_MAX}",
            "auto",
            "How many connections carry a migration's pages: so many, or as both hosts' cores and"
            " the bandwidth suggest and measuring tells.",
            read_by=frozenset({Service.SOURCE_HOST}),
        )
    )
    omit_zeros: bool = field(
        metadata=_variable(
            "GODWIT_OMIT_ZEROS",
            values.switch,
            "on or off",
            "on",
            "Whether pages that are all zero are only named, and do not travel.",
            read_by=frozenset({Service.SOURCE_HOST}),
        )
    )
    omit_rewritten: bool = field(
        metadata=_variable(
            "GODWIT_OMIT_REWRITTEN",
            values.switch,
            "on or off",
            "on",
            "Whether pages that were written again with what they held do not travel again, as long"
            " as finding them is measured to pay.",
            read_by=frozenset({Service.SOURCE_HOST}),
        )
    )
    content_store: bool = field(
        metadata=_variable(
            "GODWIT_CONTENT_STORE",
            values.switch,
            "on or off",
            "on",
            "Whether chunks that the destination holds already are filled there, and do not travel"
            " (docs/data-plane.md). Both hosts must have it on.",
            read_by=HOST_SERVICES,
        )
    )
    compression: CompressionPolicy = field(
        metadata=_variable(
            "GODWIT_COMPRESSION",
            CompressionPolicy,
            "auto, off, zstd or lz4",
            "auto",
            "How pages may be compressed, where the measured link is slower than that"
            " (docs/data-plane.md): by any method, by none, or by this one. Both hosts must allow"
            " it.",
            read_by=HOST_SERVICES,
        )
    )
    content_directory: Path | None = field(
        metadata=_variable(
            "GODWIT_CONTENT_DIR",
            values.path_or_nothing,
            "a directory",
            "",
            "Files of chunks, such as models as they lie in memory, that arriving machines are"
            " filled from. Files in it are every tenant's; those in a folder in it, that tenant's.",
            default_shown="(none)",
            read_by=frozenset({Service.DESTINATION_HOST}),
        )
    )
    link_bandwidth: int = field(
        metadata=_variable(
            "GODWIT_LINK_BANDWIDTH",
            parse_bandwidth,
            "a rate such as 5Gbit, at least 1Mbit; none",
            "none",
            "How much of the host's link all migrations that leave it may take together before"
            " their stuns, in fair shares.",
            read_by=frozenset({Service.SOURCE_HOST}),
        )
    )
    let_hot_wait: bool = field(
        metadata=_variable(
            "GODWIT_LET_HOT_WAIT",
            values.switch,
            "on or off",
            "on",
            "Whether pages that are written in every round wait for the stun, if they fit.",
            read_by=frozenset({Service.SOURCE_HOST}),
        )
    )
    dirty_tracking: DirtyTracking = field(
        metadata=_variable(
            "GODWIT_DIRTY_TRACKER",
            DirtyTracking,
            "auto, pagemap or digest",
            "auto",
            "What finds the pages that a machine has written: pagemap asks the kernel, digest"
            " compares all memory with what was sent; auto is pagemap where the kernel has"
            " PAGEMAP_SCAN.",
            read_by=HOST_SERVICES,
        )
    )
    fence_command: tuple[str, ...] = field(
        metadata=_variable(
            "GODWIT_FENCE_COMMAND",
            values.command,
            "a program by its absolute path, and arguments",
            "",
            "Confirms that another host is powered off (docs/in-doubt.md). Empty: the operator is"
            " asked.",
            default_shown="(none)",
            read_by=HOST_SERVICES | {Service.COORDINATOR},
        )
    )
    signing_key: Path | None = field(
        metadata=_variable(
            "GODWIT_SIGNING_KEY",
            values.path_or_off,
            "a file, or off",
            places.signing_key,
            "The Ed25519 key that signs, at a migration's end, what the service has written of it;"
            " made if it is not there (docs/replay.md).",
            default_shown="signing.key in the host's directory, else in $GODWIT_DIR/services",
            read_by=WRITERS,
        )
    )
    sampling_period_ns: int = field(
        metadata=_variable(
            "GODWIT_SAMPLING_PERIOD",
            parse_duration_ns,
            "a time such as 10s; 0s: never",
            "10s",
            "How often the host looks at what each machine writes, for estimates; less often where"
            " that would cost the machine more than 1 % of its time.",
            read_by=frozenset({Service.SOURCE_HOST}),
        )
    )
    admission: AdmissionPolicy = field(
        metadata=_variable(
            "GODWIT_ADMISSION",
            AdmissionPolicy,
            "refuse or warn",
            "refuse",
            "What becomes of a migration whose estimated stun may be over its limit.",
            read_by=frozenset({Service.COORDINATOR}),
        )
    )
    coordinator_id: str = field(
        metadata=_variable(
            "GODWIT_COORDINATOR_ID",
            values.name,
            "a name: 1 to 63 of a-z, 0-9 and '-'",
            "coordinator-1",
            "Names this replica of the coordinator in the log; no two may share it.",
            read_by=frozenset({Service.COORDINATOR}),
        )
    )
    tracker_id: str = field(
        metadata=_variable(
            "GODWIT_TRACKER_ID",
            values.name,
            "a name: 1 to 63 of a-z, 0-9 and '-'",
            "tracker-1",
            "Names this replica of the tracker in the log; no two may share it.",
            read_by=frozenset({Service.GPU_STATE_TRACKER}),
        )
    )
    monitor_host: str = field(
        metadata=_variable(
            "GODWIT_MONITOR_HOST",
            values.address,
            "an address of this machine",
            "127.0.0.1",
            "Where the monitor's page is served. It has no users: whoever reaches it sees all.",
            read_by=frozenset({Service.MONITOR}),
        )
    )
    monitor_port: int = field(
        metadata=_variable(
            "GODWIT_MONITOR_PORT",
            values.whole_number(0, PORT_MAX),
            f"0 to {PORT_MAX}",
            "8090",
            "The page's port; 0 takes any free one and writes it to a file.",
            read_by=frozenset({Service.MONITOR}),
        )
    )
    monitor_names: frozenset[str] = field(
        metadata=_variable(
            "GODWIT_MONITOR_NAMES",
            values.names,
            "host names, with commas between",
            "",
            "Names under which browsers may ask for the page, beside addresses and localhost.",
            default_shown="(none)",
            read_by=frozenset({Service.MONITOR}),
        )
    )
    health_host: str = field(
        metadata=_variable(
            "GODWIT_HEALTH_HOST",
            values.address,
            "an address of this machine",
            "127.0.0.1",
            "Where the health endpoint listens.",
        )
    )
    health_port: int = field(
        metadata=_variable(
            "GODWIT_HEALTH_PORT",
            values.whole_number(0, PORT_MAX),
            f"0 to {PORT_MAX}",
            "0",
            "The health endpoint's port; 0 takes any free one and writes it to a file.",
        )
    )
    tracing: bool = field(
        metadata=_variable(
            "GODWIT_TRACING",
            values.switch,
            "on or off",
            "off",
            "Whether spans of migrations go to an OpenTelemetry collector, where"
            " OTEL_EXPORTER_OTLP_ENDPOINT says (docs/monitoring.md).",
            read_by=WRITERS | {Service.COMMAND},
        )
    )
    log_level: int = field(
        metadata=_variable(
            "GODWIT_LOG_LEVEL",
            values.log_level,
            "debug, info, warning, error or critical",
            "info",
            "The least severe log lines that are written.",
            read_by=_ALL,
        )
    )
    log_format: LogFormat = field(
        metadata=_variable(
            "GODWIT_LOG_FORMAT",
            LogFormat,
            "auto, json or console",
            "auto",
            "How log lines look; auto is console on a terminal, else json.",
            read_by=_ALL,
        )
    )


def load(service: Service, environ: Mapping[str, str]) -> Config:
    """Return the configuration of ``service``. Empty variables count as unset.

    Raises ``ConfigError`` for the first variable that ``service`` reads and that is wrong. It has
    no others: to ask for one raises ``AttributeError``, since the table would not tell of it.
    """
    config = object.__new__(Config)
    for name, variable in _variables():
        if service in variable.read_by:
            object.__setattr__(config, name, _value(variable, service, environ))
    return config


def rows() -> tuple[VariableRow, ...]:
    """Return the table of all variables, for the docs."""
    return tuple(
        VariableRow(
            variable.name,
            variable.allowed,
            variable.default_shown,
            variable.doc,
            tuple(service.value for service in Service if service in variable.read_by),
        )
        for _, variable in _variables()
    )


def _variables() -> Iterator[tuple[str, Variable]]:
    return ((item.name, item.metadata[_METADATA_KEY]) for item in fields(Config))


def _value(variable: Variable, service: Service, environ: Mapping[str, str]) -> Any:
    text = environ.get(variable.name, "") or variable.default(environ)
    shown = values.without_credentials(text) if variable.parse is values.url else text
    if not text and service in variable.required_by:
        raise ConfigError(variable.name, shown, variable.allowed)
    try:
        return variable.parse(text)
    except (ValueError, KeyError, InvalidInputError) as error:
        cause = error if shown == text else None  # its words may hold a part of the password
        raise ConfigError(variable.name, shown, variable.allowed) from cause
