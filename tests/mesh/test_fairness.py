"""What a node gives and takes, counted at its sockets, and what follows from it."""
import time

from node import noise, until


def traffic(node, window="7d"):
    told = node.get(f"/api/mesh/traffic-stats?window={window}")
    return told, told["windows"][window]


def broken(node):
    return {violation["type"] for violation in node.get("/api/mesh/traffic-stats")["violations"]}


def connected(node, *others):
    until(f"{node.name} is connected", lambda: {other.id for other in others} <= node.connected())
    return node


def fetches(node, content, size):
    node.fetch(content, size, "song.wav")
    until(f"{node.name} has the file", lambda: node.fetched(content)["state"] == "done")


def test_who_gave_too_much_to_the_mesh_alone_refuses_new_uploads_until_restarted_too(tmp_path, node, holders, song):
    path, content = song
    size = path.stat().st_size
    # Something must have been received for a ratio to count: a song of somebody else's.
    other = tmp_path / "other"
    other.mkdir()
    small = noise(other / "small.wav", 2)
    giver = node("giver", other).start().measure()
    (one,) = holders(1, **{"mesh.peers": giver.named, "mesh.fairness.grace_gib": 0})
    connected(one, giver)
    came = (other / "small.wav").stat().st_size
    fetches(one, small, came)
    # The sockets' counts are gathered every few seconds: the list may be told before the file.
    got = until("what came is counted", lambda: (t := traffic(one)[1])["overlay_download_bytes"] >= came and t)
    # The file, its list, nothing else.
    assert got["overlay_download_bytes"] - came <= 64 * 1024, got

    first = connected(node("first", **{"mesh.peers": one.named}).start(), one)
    fetches(first, content, size)
    until("too much went to the mesh", lambda: "excessive_overlay" in broken(one))
    until("all that went is counted", lambda: traffic(one)[1]["overlay_upload_bytes"] >= size)
    told, week = traffic(one)
    assert told["uploads_refused"] and abs(week["overlay_upload_bytes"] - size) <= size / 100, (told, size)
    assert week["soulseek_upload_bytes"] == 0

    second = connected(node("second", **{"mesh.peers": one.named}).start(), one)
    before, refused = traffic(one)[1]["overlay_upload_bytes"], one.get("/api/mesh")["requests_refused"]
    second.fetch(content, size, "song.wav")
    # Its list is given, its pieces are not.
    until("a request is refused", lambda: one.get("/api/mesh")["requests_refused"] > refused)
    until("it waits", lambda: "no connected peer" in second.fetched(content)["waits_for"])
    assert second.fetched(content)["bytes_done"] == 0, second.fetched(content)
    assert traffic(one)[1]["overlay_upload_bytes"] - before < 64 * 1024

    one.kill()
    one.start()
    until("it remembers", lambda: "excessive_overlay" in broken(one))
    # What has consequences was kept at once.
    assert abs(traffic(one)[1]["overlay_upload_bytes"] - size) <= size / 100
    connected(second, one)
    # A request of the program that was started since.
    until("it refuses as before", lambda: one.get("/api/mesh")["requests_refused"] > 0)
    assert second.fetched(content)["bytes_done"] == 0, second.fetched(content)


def test_a_day_that_is_full_stops_fetches(node, holders, song):
    path, content = song
    (one,) = holders(1)
    full = connected(node("full", **{"mesh.peers": one.named, "mesh.fairness.daily_overlay_download_gb": 0}).start(), one)
    until("nothing may be fetched", lambda: full.get("/api/mesh/traffic-stats")["downloads_paused"])
    full.fetch(content, path.stat().st_size, "song.wav")
    until("the peer is a source", lambda: full.fetched(content)["sources"])
    assert broken(full) == {"daily_overlay_download"}
    assert full.fetched(content)["bytes_done"] == 0 and full.fetched(content)["state"] == "running"
    full.stop()
    full.settings["mesh.fairness.daily_overlay_download_gb"] = 1
    full.start()
    until("it goes on", lambda: full.fetched(content)["state"] == "done")


def test_who_takes_more_than_it_gives_is_held_to_half_its_speed(node, holders, song):
    """Half of what came a second when it was seen: ratios are looked at every minute here, and the file takes longer.
    The one who sends is limited, so that no more than that can have been measured."""
    path, content = song
    size = path.stat().st_size
    (one,) = holders(1, **{"global.upload.speed_limit": 270})
    taker = node("taker", **{"mesh.peers": one.named, "mesh.fairness.grace_gib": 0,
                             "mesh.fairness.enforcement_interval_minutes": 1})
    connected(taker.start(), one)
    taker.fetch(content, size, "song.wav")
    until("it is held back", lambda: taker.get("/api/mesh/traffic-stats")["downloads_throttled"])
    assert "low_contribution" in broken(taker) and taker.fetched(content)["state"] == "running"
    held = until("it is known to what", lambda: taker.get("/api/mesh/traffic-stats")["downloads_held_to"])
    assert 16 * 1024 < held <= 270 * 1024 * 6 // 10, held
    until("it is there all the same", lambda: taker.fetched(content)["state"] == "done")
    # What moved is read off the sockets' counters every second.
    until("all of it is counted", lambda: traffic(taker, "24h")[1]["overlay_download_bytes"] >= size)


def test_who_takes_more_than_it_gives_takes_nothing_where_the_owner_wants_that(tmp_path, node, holders, song):
    path, content = song
    share = tmp_path / "small"
    small = noise(share / "small.wav", 2)
    giver = node("giver", share).start().measure()
    (one,) = holders(1)
    taker = node("taker", **{"mesh.peers": f"{giver.named};{one.named}", "mesh.fairness.grace_gib": 0,
                             "mesh.fairness.enforcement_interval_minutes": 1, "mesh.fairness.pause_overlay_downloads": "true"})
    connected(taker.start(), giver, one)
    fetches(taker, small, (share / "small.wav").stat().st_size)
    # Ratios are looked at every minute here, and at the start.
    until("it took and gave nothing", lambda: taker.get("/api/mesh/traffic-stats")["downloads_paused"])
    assert "low_contribution" in broken(taker)
    taker.fetch(content, path.stat().st_size, "song.wav")
    until("the peer is a source", lambda: taker.fetched(content)["sources"])
    # For a while, not at one moment only.
    for _ in range(50):
        assert taker.fetched(content)["bytes_done"] == 0 and taker.fetched(content)["state"] == "running"
        time.sleep(0.1)
    taker.stop()
    taker.settings["mesh.fairness.pause_overlay_downloads"] = "false"
    taker.start()
    until("it goes on", lambda: taker.fetched(content)["state"] == "done")
