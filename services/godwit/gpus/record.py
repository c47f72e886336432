"""``python -m godwit.gpus.record > FILE.json``: keep what this host's NVML answers, as test data.

Asks what the source host asks, twice, and changes nothing. The file names the host's GPUs by their
UUIDs and PCI addresses. Exits with 10 where there is no driver.
"""

from __future__ import annotations

import sys
from importlib import metadata

from godwit.catalogue.loading import load
from godwit_protocol.errors import UnsupportedError
from godwit_protocol.facts import DeclaredFacts

from .library import Nvml, NvmlError
from .nvml import NvmlGpus
from .recording import Origin, Recorder, Recording, encode


def main() -> int:
    """Write the recording to standard output; return the exit status."""
    try:
        recorder = Recorder(Nvml())
    except NvmlError as error:
        sys.stderr.write(f"there is nothing to record: {error.message}\n")
        return UnsupportedError.exit_code
    gpus = NvmlGpus(lambda: recorder, load(), DeclaredFacts())
    for _ in range(2):
        look = gpus.look_now()
    known = [gpu.facts for gpu in look.gpus if gpu.facts is not None]
    gpus.judge_now([facts.metadata for facts in known if facts.metadata])
    recording = Recording(
        origin=Origin.RECORDED,
        driver=look.driver,
        boards=tuple(facts.board for facts in known),
        library=f"nvidia-ml-py {metadata.version('nvidia-ml-py')}",
        answers=tuple(recorder.answers),
    )
    sys.stdout.buffer.write(encode(recording))
    return 0


if __name__ == "__main__":
    sys.exit(main())
