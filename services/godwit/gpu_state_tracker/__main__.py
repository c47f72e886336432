"""``python -m godwit.gpu_state_tracker``: run one replica of the tracker."""

import sys

from godwit.gpu_state_tracker.service import main
from godwit.runtime.config import Service
from godwit.runtime.service import run_service

if __name__ == "__main__":
    sys.exit(run_service(Service.GPU_STATE_TRACKER, main))
