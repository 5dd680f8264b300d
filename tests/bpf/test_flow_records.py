"""Flows of real packets as records: whose they were is told after the process is gone, in the cgroup of its socket."""

from __future__ import annotations

import os
import socket

import msgspec
import pytest

from aegis._native.flow_records import FlowEncoder
from aegis._native.flowtable import FlowTable
from aegis._native.transcode import to_json
from aegis.host import cgroups
from aegis.kernel.flows import FlowReader
from aegis.modules.observability.table import Table
from tests.support import testers
from tests.support.flows import boottime_ns, settled, watched
from tests.support.world import World

pytestmark = pytest.mark.require("root", "bpf", "cgroup", "tracing", "sk_storage", "iterators")

DATAGRAMS = 17


def talk(address: str, port: int, octets: int) -> int:
    with socket.create_connection((address, port), timeout=10) as client:
        client.sendall(b"x" * octets)
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass
    return os.getpid()


def told(table: FlowTable, reader: FlowReader, hierarchy: cgroups.Cgroups) -> list[dict[str, object]]:
    """What is due now, each flow as a gateway gets it."""
    processes = Table(
        hierarchy.find,
        lambda identity, path: hierarchy.learn(identity, path.decode()),
        lambda _pid: None,
        keep_ended=9,
    )
    encoder = FlowEncoder(
        lambda owner: processes.owner_record(owner, reader.owner(owner)), lambda *_: None, {}.get
    )
    _, run = encoder.encode(
        table, now_ns=boottime_ns(), wall_offset_ns=0, base_ns=0, interval_ns=60_000_000_000
    )
    return [one for _, _, array in to_json(run, 0) for one in msgspec.json.decode(array)]


def test_a_flow_is_told_once_with_the_process_that_is_gone(world: World) -> None:
    hierarchy = cgroups.Cgroups(cgroups.mounted_at(), now=boottime_ns)
    table = FlowTable(64)
    with watched(world) as reader, testers.tcp_server(world.b, world.b.v4) as port:
        pid = world.a.run(talk, world.b.v4, port, 9973, cgroup=world.cgroup)
        settled(world)
        table.next_harvest()
        table.ingest(reader.everything())
        (row,) = [one for one in table.rows() if one.remote_port == port]
        (flow,) = [one for one in told(table, reader, hierarchy) if one["dst_port"] == port]
        assert (flow["owner"], flow["pid"], flow["uid"]) == ("process", pid, 0)
        assert str(flow["cgroup"]).endswith(os.path.basename(str(world.cgroup)))
        assert (flow["packets_sent"], flow["bytes_sent"]) == (row.packets_egress, row.bytes_egress)
        assert (flow["packets_received"], flow["bytes_received"]) == (row.packets_ingress, row.bytes_ingress)
        assert int(str(flow["bytes_sent"])) > 9973
        assert flow["first_ns"] == row.first_ns
        assert told(table, reader, hierarchy) == []
