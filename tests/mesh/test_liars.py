"""Meeting in a DHT of which most nodes lie."""
import contextlib
import json
import subprocess
import sys
import time

import pytest

from node import HERE, until
from test_meeting import LOOPBACK, Dht, key, looks

HONEST, LIARS = 3, 12
PLACE = "a place among liars"


@contextlib.contextmanager
def liars(mode, count):
    """See liars.py: their addresses, and a way to end them that says what was asked of them."""
    process = subprocess.Popen([sys.executable, HERE / "liars.py", mode, str(count)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)

    def end():
        process.stdin.close()
        counts = json.loads(process.stdout.readline())
        process.wait()
        return counts
    try:
        yield process.stdout.readline().split(), end
    finally:
        process.stdin.close()
        process.wait()


@pytest.fixture
def few():
    """The honest nodes."""
    dht = Dht(HONEST)
    yield dht
    dht.process.stdin.close()
    dht.process.wait()


def seeker(node, name, n, first, **settings):
    return node(name, **{"mesh.dht.enabled": "true", "mesh.dht.bootstrap_nodes": ";".join(first),
                         "mesh.dht.announce_interval": 5, "mesh.dht.discovery_interval": 5,
                         "mesh.dht.rendezvous_keys": PLACE, "network.private_ranges": LOOPBACK,
                         "mesh.address": f"127.{n}.0.1", **settings})


def test_two_meet_although_four_of_five_nodes_lie(node, few):
    with liars("lies", LIARS) as (addresses, end):
        for n in range(HONEST):
            for address in addresses:
                few.know(n, address)
        first = [few.nodes[0], *addresses[:4]]
        one = seeker(node, "one", 21, first).start()
        until("one is in the DHT", lambda: any(
            f"{one.settings['mesh.address']}:{one.settings['mesh.port']}" in few.ask(n, key(PLACE)) for n in range(HONEST)))
        began = time.monotonic()
        other = seeker(node, "other", 22, first).start()
        until("they have met", lambda: one.id in other.connected() or other.id in one.connected(), 400)
        took, told = time.monotonic() - began, looks(other, PLACE)
        asked = end()
    found = max(look["found"] for look in told)
    assert found > 8, told
    assert 0 < asked["lookups_answered"], asked
    print(f"{LIARS} of {LIARS + HONEST} nodes lie: met after {took:.0f} s and {len(told)} lookups, {found} addresses at the "
          f"key; both nodes and the honest ones asked the liars {asked['queries']} times, "
          f"{asked['bytes_in']} bytes out and {asked['bytes_out']} bytes in")


def test_a_search_without_end_ends(node):
    with liars("endless", 1) as (addresses, end):
        one = seeker(node, "one", 23, addresses).start()
        began = time.monotonic()
        until("the search is over", lambda: looks(one, PLACE), 200)
        took, look = time.monotonic() - began, looks(one, PLACE)[-1]
        state = one.get("/api/mesh/meeting")
        asked = end()
    assert asked["queries"] > 0 and look["found"] <= 500, (asked, look)
    assert state["candidates"] <= 128
    print(f"every node is invented: a lookup ends after {took:.0f} s, {look}; {asked['queries']} questions, "
          f"{asked['bytes_in']} bytes out and {asked['bytes_out']} bytes in, {asked['invented']} nodes invented")
    assert one.process.alive() and "panicked" not in one.log()
