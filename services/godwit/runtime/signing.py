"""Ed25519 keys of services: made, kept and used. The only module that knows a private key."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from godwit_protocol.errors import InvalidInputError, NotFoundError

from .files import exists

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_FOR_OTHERS: Final = 0o077


class Signer:
    """One private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        """32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """Return a signature, 64 bytes; the same message always has the same."""
        return self._key.sign(message)


def open_signer(path: Path | None) -> Signer | None:
    """The key in a file, which is made if it is not there; None if no file is named.

    Raises ``InvalidInputError`` if the file cannot be used.
    """
    if path is None:
        return None
    if not exists(path):
        make_key(path)
    return load_signer(path)


def load_signer(path: Path) -> Signer:
    """The key in a file.

    Raises ``NotFoundError``, and ``InvalidInputError`` if it holds none, or others may read it.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        if path.stat().st_mode & _FOR_OTHERS:
            raise InvalidInputError(
                f"others may read the signing key {path}", hint=f"chmod 600 {path}"
            )
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"{path} is no signing key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInputError(f"{path} is no Ed25519 key")
    return Signer(key)


def make_key(path: Path) -> None:
    """Make a key in a file, unless there is one: two services of a host may do so at once.

    It is there whole or not at all. Raises ``InvalidInputError`` if it cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    form = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    text = Ed25519PrivateKey.generate().private_bytes(*form)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_once(path, text)
    except OSError as error:
        raise InvalidInputError(
            f"the signing key {path} cannot be made: {error.strerror}"
        ) from error


def _write_once(path: Path, text: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".signing-") as fresh:  # mode 0600
        fresh.write(text)
        fresh.flush()
        os.fsync(fresh.fileno())
        try:
            os.link(fresh.name, path)
        except FileExistsError:
            return
    directory = os.open(path.parent, os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def is_signed(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` of ``message`` was made with the private half of ``public_key``."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
