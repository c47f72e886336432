"""A link as slow as is wanted, on one machine: what the kernel's shaper (htb) makes of the loopback
in a network namespace of this process's own. What goes to ``SLOW_ADDRESS`` shares one rate, and a
short queue that drops what is too much, as a switch does; everything else is as fast as before.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

SLOW_ADDRESS = "127.7.0.1"
QUEUE_BYTES = 256 * 1024
MTU_BYTES = 1500
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_RATE = ("dev", "lo", "parent", "1:", "classid", "1:1", "htb", "rate")


def enter() -> None:
    """Go into a namespace where only this process and its children are. Before any thread begins.

    Raises ``OSError`` if this user may not, ``CalledProcessError`` if the kernel has no shaper.
    """
    user, group = os.geteuid(), os.getegid()
    _unshare(_CLONE_NEWNET if user == 0 else _CLONE_NEWNET | _CLONE_NEWUSER)
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _run("ip", "link", "set", "lo", "up", "mtu", str(MTU_BYTES))
    _run("tc", "qdisc", "add", "dev", "lo", "root", "handle", "1:", "htb")
    _run("tc", "class", "add", *_RATE, "1gbit")
    queue = ("bfifo", "limit", str(QUEUE_BYTES))
    _run("tc", "qdisc", "add", "dev", "lo", "parent", "1:1", *queue)
    there = ("u32", "match", "ip", "dst", f"{SLOW_ADDRESS}/32", "flowid", "1:1")
    _run("tc", "filter", "add", "dev", "lo", "parent", "1:", "protocol", "ip", *there)


def set_rate(mbit_per_second: int) -> None:
    """From now on so many million bits a second."""
    burst = ("burst", "64kb", "cburst", "64kb", "quantum", "65536")
    _run("tc", "class", "change", *_RATE, f"{mbit_per_second}mbit", *burst)


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "no network namespace of our own")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
