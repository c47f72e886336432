"""``python -m godwit.monitor``: serve the page that shows the log."""

import sys

from godwit.monitor.service import main
from godwit.runtime.config import Service
from godwit.runtime.service import run_service

if __name__ == "__main__":
    sys.exit(run_service(Service.MONITOR, main))
