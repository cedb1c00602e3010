"""A file from several peers at once, through kills of either side."""
import stat

from node import MIB, until
from world import sha256

KIB_PER_S = 2_000


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
