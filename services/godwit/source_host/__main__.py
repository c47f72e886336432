"""``python -m godwit.source_host``."""

from __future__ import annotations

import sys

from godwit.catalogue.loading import load as load_catalogue
from godwit.gpus.choosing import open_gpus
from godwit.host.context import open_host
from godwit.metrics.definitions import MOVES_OPEN
from godwit.metrics.figures import Reading
from godwit.runtime.config import Service
from godwit.runtime.service import ServiceContext, run_service

from .link_probes import LinkProbes
from .sampler import Sampler
from .service import SourceHost


async def _main(context: ServiceContext) -> None:
    gpus = open_gpus(context.config, load_catalogue(context.config.catalogue_file))
    async with open_host(context) as host:
        if period_ns := context.config.sampling_period_ns:
            context.tasks.create_task(Sampler(host, period_ns).run())
        probes = LinkProbes(context.log, host.clock, host.name, host.dial)
        context.tasks.create_task(probes.run())
        service = SourceHost(host, context.tasks, context.health, gpus)
        context.figures.ask(lambda: [Reading(MOVES_OPEN, len(service.open))])
        await service.run()


if __name__ == "__main__":
    sys.exit(run_service(Service.SOURCE_HOST, _main))
