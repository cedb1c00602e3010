"""A file from several peers at once, through kills of either side."""
import stat

from node import MIB, until
from world import sha256

KIB_PER_S = 700


def test_a_file_comes_from_two_peers_through_kills_of_both_sides(node, holders, song):
    path, content = song
    size = path.stat().st_size
    one, other = holders(2, **{"global.upload.speed_limit": KIB_PER_S})
    key = one.home / "identity" / "mesh.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    fetcher = node("fetcher", **{"mesh.peers": f"{one.named};{other.named}"}).start()
    me = fetcher.id
    until("both are connected", lambda: fetcher.connected() == {one.id, other.id})

    fetcher.fetch(content, size, "../fetched: song.wav")
    until("both have sent something", lambda: all(
        share["bytes"] > 0 for share in fetcher.fetched(content)["sources"]) and len(
        fetcher.fetched(content)["sources"]) == 2)
    until("a quarter is there", lambda: fetcher.fetched(content)["bytes_done"] > size // 4)
    fetcher.kill()
    fetcher.start()
    assert fetcher.id == me, "the key outlives a kill"
    # What was there before the kill is there after it: a piece or two were under way.
    until("it goes on where it was", lambda: fetcher.fetched(content)["bytes_done"] > size // 4)
    sent = sum(share["bytes"] for share in fetcher.fetched(content)["sources"])
    assert sent < size * 3 // 4, "it did not begin anew"

    until("over half is there", lambda: fetcher.fetched(content)["bytes_done"] > size // 2)
    assert fetcher.fetched(content)["state"] == "running"
    one.kill()
    done = until("the file is there", lambda: (f := fetcher.fetched(content))["state"] == "done" and f)
    assert done["local_path"].startswith(str(fetcher.home / "downloads")), done
    assert done["local_path"].rsplit("/", 1)[1] == ".._fetched: song.wav", done
    assert sha256(done["local_path"]) == sha256(path)
    assert not list((fetcher.home / "incomplete").glob("*.mesh")), "the partial file is gone"
    assert fetcher.connected() == {other.id} or until("the dead one is noticed", lambda: fetcher.connected() == {other.id})

    metrics = fetcher.call("GET", "/metrics").text
    assert 'slskdn_mesh_fetches{name="running"} 0' in metrics, metrics
    status = fetcher.get("/api/mesh")
    assert status["bad_pieces"] == 0 and status["bytes_in"] > MIB, status


def test_a_peer_whose_copy_is_gone_for_a_while_is_asked_again(node, holders, song):
    path, content = song
    size = path.stat().st_size
    (one,) = holders(1, **{"global.upload.speed_limit": KIB_PER_S})
    fetcher = node("fetcher", **{"mesh.peers": one.named}).start()
    until("it is connected", lambda: fetcher.connected() == {one.id})
    fetcher.fetch(content, size, "song.wav")
    until("a part is there", lambda: fetcher.fetched(content)["bytes_done"] > 2 * MIB)
    copy = next(one.share.iterdir())
    copy.rename(one.home / "away.wav")
    gone = until("it has it no more", lambda: (f := fetcher.fetched(content))["sources"][0]["state"] == "aborted" and f)
    assert gone["state"] == "running" and "no connected peer has the file" in gone["waits_for"], gone
    assert not gone["sources"][0]["dropped"] and fetcher.connected() == {one.id}
    (one.home / "away.wav").rename(copy)
    done = until("the file is there", lambda: (f := fetcher.fetched(content))["state"] == "done" and f)
    assert sha256(done["local_path"]) == sha256(path)


def test_fetches_that_nobody_can_serve_leave_their_turns_to_others(node, holders, song):
    path, content = song
    size, turns = path.stat().st_size, 4
    (one,) = holders(1)
    fetcher = node("fetcher", **{"mesh.peers": one.named}).start()
    until("it is connected", lambda: fetcher.connected() == {one.id})
    # Those that look for a piece list, and those of one piece that need none, as many as work at once.
    for kind, idle_size in enumerate((MIB, 1000)):
        idle = [bytes([kind + 1, n] * 16).hex() for n in range(turns)]
        for n, nobody_has in enumerate(idle):
            fetcher.fetch(nobody_has, idle_size, f"idle {n}")
        until("they have all turns", lambda: all(
            fetcher.fetched(one)["waits_for"] == "no connected peer has the file" for one in idle))
        fetcher.fetch(content, size, "song.wav")
        assert fetcher.fetched(content)["waits_for"] in ("other fetches come first", "")
        until("the file is there", lambda: fetcher.fetched(content)["state"] == "done", seconds=180)
        for nobody_has in (*idle, content):
            assert fetcher.call("DELETE", f"/api/mesh/fetches/{nobody_has}").ok
