"""How nodes meet: by a DHT of another program's nodes, without naming each other."""
import hashlib
import itertools
import subprocess
from pathlib import Path

import pytest
import requests

from node import HERE, content_hash, until

NODES = 12
RECORDING, RELEASE = "01234567-89ab-cdef-0123-456789abcdef", "fedcba98-7654-3210-fedc-ba9876543210"
PLACES = ["slskdn-appliance-mesh-v1", "slskdn-appliance-mesh-v1-backup-1", "slskdn-appliance-mesh-v1-backup-2"]
LOOPBACK = "127.0.0.0/8"


def key(text):
    return hashlib.sha1(text.encode()).hexdigest()


def python():
    """What has libtorrent and zeroconf."""
    venvs = subprocess.run([HERE.parent / "setup"], check=True, capture_output=True, text=True).stdout.strip()
    return Path(venvs) / "meet/bin/python"


class Dht:
    """See dht.py."""

    def __init__(self, count=NODES):
        command = [python(), "-W", "ignore", HERE / "dht.py", str(count)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.nodes = self.process.stdout.readline().split()
        assert len(self.nodes) == count

    def order(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().split()

    def tell(self, n, key, port):
        assert self.order("tell", n, key, port) == ["told"]

    def know(self, n, address):
        assert self.order("know", n, address) == ["known"]

    def ask(self, n, key):
        found = self.order("ask", n, key)
        return set() if found == ["nobody"] else set(found)


@pytest.fixture(scope="module")
def dht():
    dht = Dht()
    yield dht
    dht.process.stdin.close()
    dht.process.wait()


@pytest.fixture
def seeker(node, dht):
    """`seeker(name, setting=value)`: a node, not started yet, that meets others by the DHT, with no patience, at an
    address of its own network."""
    numbers = itertools.count(1)

    def make(name, share=None, **settings):
        return node(name, share, **{"mesh.dht.enabled": "true", "mesh.dht.bootstrap_nodes": ";".join(dht.nodes[:3]),
                                    "mesh.dht.announce_interval": 5, "mesh.dht.discovery_interval": 5,
                                    "network.private_ranges": LOOPBACK, "mesh.address": f"127.{next(numbers)}.0.1",
                                    **settings})
    return make


def listens_at(node):
    return f"{node.settings['mesh.address']}:{node.settings['mesh.port']}"


def looks(node, place=PLACES[0]):
    return [look for look in node.get("/api/mesh/meeting")["dht"]["lookups"] if look["key"] == key(place)]


def test_two_nodes_meet_without_naming_each_other(seeker, dht):
    one, other = seeker("one").start(), seeker("other").start()
    until("they are connected", lambda: one.connected() == {other.id} and other.connected() == {one.id})
    # One of them called, and knows why; the other need not have.
    assert "dht" in [peer["found_by"] for node in (one, other) for peer in node.peers().values()]
    assert not any(peer["named"] for node in (one, other) for peer in node.peers().values())
    # Another program finds them where they say they are.
    both = {listens_at(one), listens_at(other)}
    until("both are in the DHT", lambda: dht.ask(7, key(PLACES[0])) == both)
    state = one.get("/api/mesh/meeting")
    assert state["reachable"] and state["dht"]["problem"] == "", state
    # Nobody calls itself for ever: its own address is in the DHT too.
    assert one.log().count("\n") < 500


def test_nodes_with_their_own_meeting_place_meet_only_each_other(seeker, dht):
    ours = {"mesh.dht.rendezvous_keys": "our own place"}
    one, other = seeker("one", **ours).start(), seeker("other", **ours).start()
    stranger = seeker("stranger").start()
    until("they are connected", lambda: one.connected() == {other.id})
    until("the stranger has looked", lambda: looks(stranger))
    assert stranger.connected() == set()
    assert [row["title"] for row in one.get("/api/mesh/announcements")] == ["our own place"]


def test_what_strangers_put_there_leads_nowhere(seeker, dht):
    # Twelve networks, none of which may be dialled: only a part of loopback is the owner's.
    place = "poisoned"
    for n in range(NODES):
        dht.tell(n, key(place), 4_000 + n)
    one = seeker("one", **{"network.private_ranges": "127.0.0.0/10", "mesh.dht.rendezvous_keys": place}).start()
    until("it has found them", lambda: any(look["found"] >= NODES for look in looks(one, place)))
    assert all(look["taken"] == 0 for look in looks(one, place)), looks(one, place)
    assert one.get("/api/mesh/meeting")["candidates"] == 0
    # Where they may be dialled they are, and are not there; an honest node is found all the same.
    ours = {"mesh.dht.rendezvous_keys": place}
    two, three = seeker("two", **ours).start(), seeker("three", **ours).start()
    until("they are connected", lambda: three.id in two.connected())


@pytest.fixture
def share(tmp_path):
    """A folder with one recording of a release."""
    share = tmp_path / "music"
    share.mkdir()
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "anoisesrc=d=5:a=0.1", "-metadata", "title=A Song",
                    "-metadata", "artist=Somebody", "-metadata", "album=An Album",
                    "-metadata", f"MUSICBRAINZ_TRACKID={RECORDING}", "-metadata", f"MUSICBRAINZ_ALBUMID={RELEASE}",
                    share / "song.flac"], check=True)
    return share


def test_whoever_has_a_recording_is_found_by_its_key(seeker, dht, share):
    # Nobody meets anybody anywhere else: each has a meeting place of its own.
    def alone(name, *more, **settings):
        return seeker(name, *more, **{"mesh.dht.rendezvous_keys": f"where {name} is alone", **settings})
    song, of_it = share / "song.flac", f"slskdn-appliance-mb-v1:{RECORDING}"
    content, size = content_hash(song), song.stat().st_size
    holder = alone("holder", share).start().measure()
    holder.stop()
    # What is announced is looked up at the start.
    holder.settings["mesh.dht.announce_content"] = "true"
    holder.start()
    until("it is in the DHT", lambda: dht.ask(5, key(of_it)) == {listens_at(holder)})
    wants, outside, other = alone("wants"), alone("outside", **{"mesh.dht.enabled": "false"}), alone("other")
    wanted = {"content_hash": content, "size": size, "name": "song.flac"}
    for one in (wants, outside, other):
        one.start()
        one.post("/api/mesh/fetches", wanted if one is other else {**wanted, "mb_recording_id": RECORDING})
    done = until("it is fetched", lambda: (f := wants.fetched(content))["state"] == "done" and f)
    assert content_hash(done["local_path"]) == content
    assert wants.peers()[holder.id]["found_by"] == "dht" and not wants.peers()[holder.id]["named"]
    assert [(look["found"], look["taken"]) for look in looks(wants, of_it)] == [(1, 1)], looks(wants, of_it)
    # Whoever keeps out of the DHT asks nothing there, and whoever wants a file and no recording asks for none.
    until("the other one has looked where it is alone", lambda: looks(other, "where other is alone"))
    assert looks(other, of_it) == [] and outside.get("/api/mesh/meeting")["dht"]["lookups"] == []
    for one in (outside, other):
        assert one.fetched(content)["state"] == "running" and one.connected() == set()
    # One that never heard of the recording hears of it from whom it finds so.
    asks, path = alone("asks").start(), f"/api/mesh/recordings/{RECORDING}/fetch"
    assert asks.call("POST", path).status_code == 404
    until("there is a copy to choose", lambda: asks.call("POST", path).status_code == 202)
    until("it is fetched", lambda: asks.fetched(content)["state"] == "done")


def test_the_dht_is_told_of_music_only_when_the_owner_says_so(seeker, dht, share, tmp_path):
    contents = {key(f"slskdn-appliance-mb-v1:{mbid}"): mbid for mbid in (RECORDING, RELEASE)}
    silent = seeker("silent", share).start().measure()
    until("the meeting places are announced", lambda: all(
        row["announced_at"] for row in silent.get("/api/mesh/announcements") if row["kind"] == "rendezvous"))
    rows = silent.get("/api/mesh/announcements")
    assert [row["title"] for row in rows if row["kind"] == "rendezvous"] == PLACES
    shown = {row["mbid"]: row for row in rows if row["kind"] != "rendezvous"}
    assert {mbid: (row["kind"], row["title"]) for mbid, row in shown.items()} == {
        RECORDING: ("recording", "Somebody – A Song"), RELEASE: ("release", "Somebody – An Album")}
    assert {row["key"]: row["mbid"] for row in shown.values()} == contents
    assert not any(row["allowed"] or row["announced_at"] for row in shown.values())
    page = requests.get(f"{silent.url}/mesh", timeout=60).text
    assert all(text in page for text in (*PLACES, RECORDING, RELEASE, "Somebody – A Song", "not allowed"))
    # The DHT remembers who else had the recording.
    for content in contents:
        assert listens_at(silent) not in dht.ask(5, content)
    silent.stop()
    # The same library, and the owner's leave.
    silent.settings["mesh.dht.announce_content"] = "true"
    silent.start()
    for content in contents:
        until("it is in the DHT", lambda: listens_at(silent) in dht.ask(5, content))
    until("the page knows", lambda: all(
        row["allowed"] and row["announced_at"] for row in silent.get("/api/mesh/announcements")))
    # What is not shared is not announced.
    (share / "song.flac").rename(tmp_path / "song.flac")
    until("it is shared no more", lambda: len(silent.get("/api/mesh/announcements")) == len(PLACES))


def test_off_is_off(node, dht):
    quiet = node("quiet", **{"mesh.dht.bootstrap_nodes": dht.nodes[0], "network.private_ranges": LOOPBACK}).start()
    state = quiet.get("/api/mesh/meeting")
    assert not state["dht"]["enabled"] and state["dht"]["lookups"] == []
    assert not any(row["allowed"] for row in quiet.get("/api/mesh/announcements"))
    off = node("off", **{"mesh.enabled": "false", "mesh.dht.enabled": "true"}).start()
    state = off.get("/api/mesh/meeting")
    assert not state["dht"]["enabled"] and not state["mdns"]["enabled"] and state["reachability"] == "the mesh is off"
    assert [row["title"] for row in off.get("/api/mesh/announcements")] == PLACES


def test_a_dht_that_does_not_answer_is_said(seeker):
    lost = seeker("lost", **{"mesh.dht.bootstrap_nodes": "127.1.1.1:9"}).start()
    until("it says so", lambda: lost.get("/api/mesh/meeting")["dht"]["problem"] == "no node answers")
    assert "On, but no node answers." in requests.get(f"{lost.url}/mesh", timeout=60).text
