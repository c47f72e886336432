"""``python -m godwit.coordinator``: run one replica of the coordinator."""

import sys

from godwit.coordinator.service import main
from godwit.runtime.config import Service
from godwit.runtime.service import run_service

if __name__ == "__main__":
    sys.exit(run_service(Service.COORDINATOR, main))
