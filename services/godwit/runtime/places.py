"""Where files are when no variable says so."""

from __future__ import annotations

import os
from collections.abc import Mapping


def directory(environ: Mapping[str, str]) -> str:
    """Of a local cluster."""
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        return f"{runtime}/godwit"
    return f"/tmp/godwit-{os.getuid()}"


def host_directory(environ: Mapping[str, str]) -> str:
    """Of one host."""
    root = environ.get("GODWIT_DIR") or directory(environ)
    return f"{root}/hosts/{environ.get('GODWIT_HOST', '')}"


def signing_key(environ: Mapping[str, str]) -> str:
    """Of what a service writes: one a host, or one for the services that have none."""
    if environ.get("GODWIT_HOST"):
        place = environ.get("GODWIT_HOST_DIR") or host_directory(environ)
        return f"{place}/signing.key"
    root = environ.get("GODWIT_DIR") or directory(environ)
    return f"{root}/services/signing.key"
