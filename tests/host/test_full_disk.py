"""A host's disk is full: a real one, of 64 KiB, in a mount namespace that ends with its program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import errno, json, pathlib, subprocess, sys
from contextlib import suppress
from godwit.host.disk import HostDirectory
from godwit.runtime.journal import JournalFullError, Room

place = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", place], check=True)
told = {}

def fill():
    with (place / "filler").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError as error:
            assert error.errno == errno.ENOSPC

def is_refused(act):
    try:
        act()
    except JournalFullError:
        return True
    return False

folder = HostDirectory(place).journals("a_service")
begun = folder.begin("one")
begun.append(b"decision", sync=True)
folder.keep_blank()
fill()
while not is_refused(lambda: begun.append(bytes(500), sync=False, room=Room.LEAVE)):
    pass
begun.append(b"its end", sync=True)
told["begun"] = begun.records == () and folder.names() == ["one"]

for name in ("two", "three"):
    last = folder.begin(name)
    last.append(b"decision", sync=True)
    told[f"{name}, no other"] = is_refused(folder.keep_blank) and is_refused(
        lambda: folder.begin("none").append(b"decision", sync=True, room=Room.LEAVE)
    )
    with suppress(FileNotFoundError):
        (place / "journals/a_service/none.journal").unlink()
    last.append(b"refused", sync=True)
    folder.end(name, last)
    told[f"{name}, over"] = folder.names() == ["one"]

(place / "filler").unlink()
folder.keep_blank()
folder.end("one", begun)
again = folder.begin("four")
told["afterwards"] = again.records == () and folder.names() == ["four"]
print(json.dumps(told))
"""


def test_what_is_begun_goes_on_and_one_after_the_other_is_refused(tmp_path: Path) -> None:
    """What is begun on a full disk can be told that it is refused, durably, as often as needed."""
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    command = ["unshare", "--mount", *user, sys.executable, "-c", PROGRAM, str(tmp_path)]
    run = subprocess.run(command, timeout=60, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert len(told) == 6 and all(told.values()), told
