"""``python -m godwit.destination_host``."""

from __future__ import annotations

import sys

from godwit.host.context import open_host
from godwit.metrics.definitions import MOVES_OPEN
from godwit.metrics.figures import Reading
from godwit.runtime.config import Service
from godwit.runtime.service import ServiceContext, run_service
from godwit.transfer.listener import LinkListener
from godwit.transfer.probe import answer_probes

from .link_offers import LinkOffers
from .service import DestinationHost


async def _main(context: ServiceContext) -> None:
    config = context.config
    async with open_host(context) as host:
        listener = await LinkListener.open(config.link_host, config.link_port)
        offers = LinkOffers(context.log, host.name, config.link_host, listener.port)
        answer_probes(listener, host.name)
        context.tasks.create_task(offers.run())
        try:
            service = DestinationHost(host, context.tasks, context.health, listener)
            context.figures.ask(lambda: [Reading(MOVES_OPEN, len(service.open))])
            await service.run()
        finally:
            await listener.close()


if __name__ == "__main__":
    sys.exit(run_service(Service.DESTINATION_HOST, _main))
