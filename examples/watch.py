"""Prints every event as it happens: python watch.py [NATS_URL]. Knows only nats-py and msgpack."""

import asyncio
import sys

import msgpack
import nats

HISTORY = "$JS.API.DIRECT.GET.GODWIT_EVENTS"


def show(data: bytes) -> None:
    event = msgpack.unpackb(data)
    print(event["host"], event["lane"], event["type"], event["body"], flush=True)


async def main(url: str) -> None:
    client = await nats.connect(url, inbox_prefix="_INBOX.watch")
    live, last = await client.subscribe("godwit.live.v1.>"), 0
    async for message in live.messages:
        sequence = int(message.headers["Nats-Sequence"])
        for missed in range(last + 1, sequence) if last else ():
            stored = await client.request(HISTORY, b'{"seq": %d}' % missed)
            show(stored.data)
        show(message.data)
        last = sequence


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "nats://watch:watch@127.0.0.1:4222"))
