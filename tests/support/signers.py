"""Keys of everybody who signs in the golden logs, and whoever trusts just those."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from godwit.runtime.signing import Signer, is_signed
from godwit_protocol.replay.signatures import Trust


def signer(number: int) -> Signer:
    """The same number always gives the same key."""
    return Signer(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


SIGNERS = {
    name: signer(number)
    for number, name in enumerate(
        ("host-1", "host-2", "tracker-1", "coordinator-1", "coordinator-2"), start=1
    )
}
TRUST = Trust(
    is_signed=is_signed,
    keys={name: frozenset({signer.public_key}) for name, signer in SIGNERS.items()},
)
