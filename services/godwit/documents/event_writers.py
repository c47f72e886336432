"""Who writes which event, and for whom it can wait. Only data: the generated documents read it."""

from __future__ import annotations

from typing import Final

from godwit_protocol.events import Event, Lane, estimate, machine, migration, signed
from godwit_protocol.roles.effects import Service

HOST_LANES: Final = (Lane.SOURCE, Lane.DESTINATION)
LANES: Final[dict[type[Event], tuple[Lane, ...]]] = {
    migration.MigrationRequested: (Lane.OPERATOR,),
    migration.CancelRequested: (Lane.OPERATOR,),
    migration.ReservationRequested: (Lane.COORDINATOR, Lane.SOURCE),
    migration.ReservationGranted: (Lane.TRACKER,),
    migration.ReservationRefused: (Lane.TRACKER,),
    migration.ReservationConfirmed: (Lane.TRACKER,),
    migration.ReservationReleased: (Lane.TRACKER,),
    migration.ReservationExpired: (Lane.TRACKER,),
    migration.PreparationOrdered: (Lane.COORDINATOR,),
    migration.DestinationPrepared: (Lane.DESTINATION,),
    migration.PreparationRefused: (Lane.DESTINATION,),
    migration.StartDecided: (Lane.COORDINATOR,),
    migration.MigrationStarted: (Lane.COORDINATOR,),
    migration.AbortOrdered: (Lane.COORDINATOR,),
    migration.PrecopyStarted: (Lane.SOURCE,),
    migration.RoundCompleted: (Lane.SOURCE,),
    migration.StunIntended: (Lane.SOURCE,),
    migration.MachineStunned: (Lane.SOURCE,),
    migration.FinalCopySent: (Lane.SOURCE,),
    migration.ImageStaged: (Lane.DESTINATION,),
    migration.GoGiven: (Lane.SOURCE,),
    migration.ActivationStarted: (Lane.DESTINATION,),
    migration.MachineActivated: (Lane.DESTINATION,),
    migration.MachineReleased: (Lane.SOURCE,),
    migration.AbortIntended: (Lane.SOURCE,),
    migration.MachineTakenBack: (Lane.SOURCE,),
    migration.MigrationAbandoned: (Lane.SOURCE,),
    migration.ImageQuarantined: (Lane.DESTINATION,),
    migration.ImageDiscarded: (Lane.DESTINATION,),
    migration.MemoryLeft: HOST_LANES,
    migration.DoubtRaised: (Lane.COORDINATOR, *HOST_LANES),
    migration.RunOrdered: (Lane.OPERATOR,),
    migration.RunOrderRefused: HOST_LANES,
    migration.HostFenced: HOST_LANES,
    migration.MigrationEnded: (Lane.COORDINATOR,),
    estimate.EstimateMade: (Lane.COORDINATOR,),
    estimate.EstimateCompared: (Lane.TRACKER,),
    signed.LaneSigned: (Lane.COORDINATOR, *HOST_LANES, Lane.TRACKER),
    machine.MachineStartRequested: (Lane.OPERATOR,),
    machine.MachineStarted: (Lane.SOURCE,),
    machine.MachineStartRefused: (Lane.SOURCE,),
    machine.MachineStopRequested: (Lane.OPERATOR,),
    machine.MachineStopped: (Lane.SOURCE,),
    machine.MachineStopRefused: (Lane.SOURCE,),
    machine.MachinePauseRequested: (Lane.OPERATOR,),
    machine.MachineResumeRequested: (Lane.OPERATOR,),
    machine.MachinePaused: (Lane.SOURCE,),
    machine.MachineResumed: (Lane.SOURCE,),
    machine.MachinePauseRefused: (Lane.SOURCE,),
    machine.OrphanCollected: HOST_LANES,
    machine.StaleMachineFrozen: (Lane.SOURCE,),
    machine.RegisterWentBack: HOST_LANES,
    machine.RegisterRestored: (Lane.SOURCE,),
    machine.MachineFailed: HOST_LANES,
    machine.HostAnnounced: (Lane.SOURCE,),
}
"""Who writes what. The tests compare it with what the roles really write."""

ADDRESSED: Final[dict[type[Event], tuple[Service, ...]]] = {
    migration.PreparationOrdered: (Service.DESTINATION_HOST,),
    migration.MigrationStarted: (Service.SOURCE_HOST,),
    migration.AbortOrdered: (Service.SOURCE_HOST, Service.DESTINATION_HOST),
    migration.MigrationAbandoned: (Service.DESTINATION_HOST,),
    migration.MachineActivated: (Service.SOURCE_HOST,),
    migration.AbortIntended: (Service.DESTINATION_HOST,),
    migration.ImageQuarantined: (Service.SOURCE_HOST,),
    migration.RunOrdered: (Service.SOURCE_HOST, Service.DESTINATION_HOST),
    migration.HostFenced: (Service.SOURCE_HOST, Service.DESTINATION_HOST),
    machine.MachineFailed: (Service.SOURCE_HOST, Service.DESTINATION_HOST),
    migration.ReservationGranted: (Service.SOURCE_HOST,),
    migration.ReservationRefused: (Service.SOURCE_HOST,),
    machine.MachineStartRequested: (Service.SOURCE_HOST,),
    machine.MachineStopRequested: (Service.SOURCE_HOST,),
    machine.MachinePauseRequested: (Service.SOURCE_HOST,),
    machine.MachineResumeRequested: (Service.SOURCE_HOST,),
}
"""Events that can also be decisions which wait for a service of a host."""
