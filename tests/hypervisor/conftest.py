"""Hosts with launchers: two for a module, and a fresh one for who breaks its log.

A machine's name is used again and again: each begins afresh, whatever the log holds.
"""

import pytest
from native_host import Client, Host


@pytest.fixture(scope="module")
def shared_hosts(tmp_path_factory, nats_server):
    hosts = [Host(tmp_path_factory.mktemp(f"host-{n}"), nats_server.url) for n in (1, 2)]
    for host in hosts:
        host.launch()
    yield hosts
    for host in hosts:
        host.end_launcher()


@pytest.fixture
async def hosts(shared_hosts, log):
    yield shared_hosts
    for host in shared_hosts:
        await host.stop_machines()


@pytest.fixture
def host(hosts):
    return hosts[0]


@pytest.fixture
async def client(log):
    return await Client.of(log)


@pytest.fixture
async def own_host(tmp_path, own_server, own_log):
    host = Host(tmp_path / "host", own_server.url)
    host.launch()
    yield host
    await host.stop_machines()
    host.end_launcher()


@pytest.fixture
async def own_client(own_log):
    return await Client.of(own_log)
