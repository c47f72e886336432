"""The options and arguments of commands about migrations, said once. Knows no command."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from godwit_protocol.convergence import SLOW_PERCENT_MAX
from godwit_protocol.estimation.admission import AdmissionPolicy
from godwit_protocol.events.migration import Verify

from . import completion


class Precopy(StrEnum):
    """Whether memory is copied while the machine runs."""

    ON = "on"
    OFF = "off"


MigrationArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="The migration's id, or as much of its beginning or end as says which.",
        autocompletion=completion.migrations,
    ),
]
MachineArgument = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The machine to move.", autocompletion=completion.machines),
]
ToOption = Annotated[
    str,
    typer.Option(metavar="HOST", help="The host to move it to.", autocompletion=completion.hosts),
]
StunLimitOption = Annotated[
    str, typer.Option(metavar="TIME", help="The longest that the machine may stand still.")
]
StunLimitMaxOption = Annotated[
    str,
    typer.Option(
        metavar="TIME", help="What it may stand still instead, rather than give the move up."
    ),
]
SlowMaxOption = Annotated[
    int,
    typer.Option(
        metavar="PERCENT",
        min=0,
        max=SLOW_PERCENT_MAX,
        help="How much of the guest's time may be taken from it, if it writes faster than the link"
        " carries; 0: none.",
    ),
]
BandwidthOption = Annotated[
    str,
    typer.Option(
        metavar="RATE",
        help="How much of the link it may take until its stun, such as 5Gbit; 'none': all of it.",
    ),
]
PrecopyOption = Annotated[
    Precopy,
    typer.Option(
        help="'off' stuns the machine first and sends all of it then: give --stun-limit the time"
        " for that."
    ),
]
DeadlineOption = Annotated[
    str, typer.Option(metavar="TIME", help="When to give up and leave the machine.")
]
VerifyOption = Annotated[
    Verify,
    typer.Option(
        help="'wire' compares digests of what was sent and what was applied; 'full' also those of"
        " all memory during the stun, which takes longer the larger the machine."
    ),
]
AdmissionOption = Annotated[
    AdmissionPolicy | None,
    typer.Option(
        help="What to do if the stun is expected to be over its limit; not given: what"
        " GODWIT_ADMISSION of the coordinator says."
    ),
]
WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait for the end, or only print the id.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print what every check says of the move; move nothing.")
]
