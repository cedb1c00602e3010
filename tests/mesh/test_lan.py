"""Nodes of one network find each other by multicast DNS: two network namespaces with a wire between."""
import json
import os
import subprocess

import pytest

from node import HERE, until
from test_meeting import python

HERE_IP, THERE_IP = "10.9.8.1", "10.9.8.2"


def ip(*words):
    subprocess.run(["ip", *map(str, words)], check=True)


@pytest.fixture(scope="module")
def wire():
    """A second namespace: the words that run a command there."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    there = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
    own = os.stat("/proc/self/ns/net").st_ino
    until("it has its own network", lambda: os.stat(f"/proc/{holder.pid}/ns/net").st_ino != own)
    ip("link", "add", "lan0", "type", "veth", "peer", "name", "lan1", "netns", holder.pid)
    ip("address", "add", f"{HERE_IP}/24", "dev", "lan0")
    ip("link", "set", "lan0", "up")
    for words in ("link set lo up", f"address add {THERE_IP}/24 dev lan1", "link set lan1 up"):
        subprocess.run([*there, "ip", *words.split()], check=True)
    yield there
    ip("link", "delete", "lan0")
    holder.terminate()
    holder.wait()


@pytest.fixture
def near(node, wire):
    """`near(name, setting=value)`: a node on this side of the wire that listens everywhere."""
    return lambda name, **settings: node(name, **{"mesh.address": "0.0.0.0", **settings})


@pytest.fixture
def far(near, wire):
    """The same on the other side; its page is open to the wire."""
    def make(name, **settings):
        made = near(name, **{"web.address": THERE_IP, "web.authentication.disabled": "true",
                             "web.allowed_hosts": THERE_IP, **settings})
        made.before, made.url = tuple(wire), f"http://{THERE_IP}:{made.web}"
        return made
    return make


def seen(count, *before):
    """What another program sees."""
    command = [*before, python(), HERE / "mdns.py", "20", str(count)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_nodes_of_one_network_meet_and_another_program_sees_them(near, far, wire):
    one, other = near("one").start(), far("other").start()
    until("they are connected", lambda: one.connected() == {other.id} and other.connected() == {one.id})
    assert "mdns" in [peer["found_by"] for node in (one, other) for peer in node.peers().values()]
    services = {service["texts"]["id"]: service for service in seen(2)}
    assert set(services) == {one.id, other.id}
    for node, address in ((one, HERE_IP), (other, THERE_IP)):
        service = services[node.id]
        assert (service["port"], service["addresses"]) == (int(node.settings["mesh.port"]), [address])
        # Nothing but the id: no names, no versions.
        assert set(service["texts"]) == {"id"} and node.id.startswith(service["name"].split(".")[0].split("-")[1])
    # Gone is gone, at once: it says farewell.
    other.stop()
    assert [service["texts"]["id"] for service in seen(1)] == [one.id]


def test_a_node_that_moved_is_called_where_it_is_now(near, far):
    one, other = near("one").start(), far("other").start()
    until("they are connected", lambda: one.connected() == {other.id})
    other.stop()
    other.settings["mesh.port"] = int(other.settings["mesh.port"]) + 1
    other.start()
    until("they are connected again", lambda: one.connected() == {other.id} and other.connected() == {one.id})


def test_a_named_peer_is_found_where_it_is_seen(near, far):
    other = far("other").start()
    one = near("one", **{"mesh.peers": f"{other.id}@{THERE_IP}:9"}).start()
    until("they are connected", lambda: one.connected() == {other.id})
    assert one.peers()[other.id]["named"]


def test_switched_off_nobody_is_told(near, far):
    quiet, other = near("quiet", **{"mesh.mdns": "false"}).start(), far("other").start()
    assert [service["texts"]["id"] for service in seen(1)] == [other.id]
    assert quiet.connected() == set() and other.peers() == {}
    assert not quiet.get("/api/mesh/meeting")["mdns"]["enabled"]


FLOOD = """
import socket, struct, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(("", 5353))
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
for packet in range(200):
    records = b""
    for n in range(40):
        name = b"x%07d" % (packet * 40 + n)
        records += bytes([len(name)]) + name + b"\\x05local\\0" + struct.pack(">HHIH", 1, 0x8001, 120, 4) + bytes([10, 9, 8, 7])
    s.sendto(struct.pack(">6H", 0, 0x8400, 0, 40, 0, 0) + records, ("224.0.0.251", 5353))
    time.sleep(0.005)
"""


def test_whoever_floods_the_network_is_not_kept(near, far, wire):
    one = near("one").start()
    subprocess.run([*wire, "python3", "-c", FLOOD, THERE_IP], check=True)
    until("it is noticed", lambda: "somebody floods multicast DNS" in one.log())
    other = far("other").start()
    until("they are connected all the same", lambda: one.connected() == {other.id})
