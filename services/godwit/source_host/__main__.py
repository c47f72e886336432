"""``python -m godwit.source_host``."""

from __future__ import annotations

import sys

from godwit.host.context import open_host
from godwit.runtime.config import Service
from godwit.runtime.service import ServiceContext, run_service

from .service import SourceHost


async def _main(context: ServiceContext) -> None:
    async with open_host(context) as host:
        await SourceHost(host, context.tasks, context.health).run()


if __name__ == "__main__":
    sys.exit(run_service(Service.SOURCE_HOST, _main))
