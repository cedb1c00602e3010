"""What nodes tell one another about recordings, and what they believe."""
import asyncio
import subprocess
import uuid

import pytest
import requests

from node import content_hash, until
from stranger import (ADVERT, ASK, CACHE_JOB, DESCRIPTOR, GRANTED, HOLDING, LIST, PING, PONG, QUERY, SYNC_ASK, SYNC_DELTA,
                      SYNC_HELLO, VIOLATION, Key, advert, chunk, claim, frame, option, stranger, varint)

RECORDING, RELEASE, SECONDS = uuid.UUID(int=0xc0ffee << 64 | 7), uuid.UUID(int=0xdecade << 64 | 9), 12


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True, timeout=120)


@pytest.fixture(scope="session")
def copies(tmp_path_factory):
    """One recording as a FLAC, as Opus made of it, and as a FLAC made of an MP3 of it. All are tagged with its id."""
    folder = tmp_path_factory.mktemp("copies")
    noise = f"anoisesrc=color=pink:seed=1:duration={SECONDS}:sample_rate=44100:amplitude=0.25"
    tone = f"sine=frequency=440:duration={SECONDS}:sample_rate=44100"
    mix = "[1]tremolo=f=2:d=0.9[a];[0][a]amix=inputs=2:normalize=0,volume=0.7,aformat=channel_layouts=stereo"
    tags = ["-metadata", f"MUSICBRAINZ_TRACKID={RECORDING}", "-metadata", f"MUSICBRAINZ_ALBUMID={RELEASE}",
            "-metadata", "title=As recorded", "-metadata", "artist=Somebody", "-metadata", "track=1"]
    ffmpeg("-f", "lavfi", "-i", noise, "-f", "lavfi", "-i", tone, "-filter_complex", mix, "-sample_fmt", "s16", *tags,
           folder / "clean.flac")
    ffmpeg("-i", folder / "clean.flac", "-b:a", "160k", *tags, folder / "copy.opus")
    ffmpeg("-i", folder / "clean.flac", "-b:a", "128k", folder / "copy.mp3")
    ffmpeg("-i", folder / "copy.mp3", *tags, folder / "transcode.flac")
    return {name: folder / name for name in ("clean.flac", "copy.opus", "transcode.flac")}


@pytest.fixture
def sharer(tmp_path, copies, node):
    """`sharer(name, copies…, setting=value)`: a started node that shares these and has measured them."""
    def make(name, *names, **settings):
        share = tmp_path / f"secret place of {name}"
        share.mkdir()
        for n, copy in enumerate(names):
            (share / f"secret name {n}.{copy.rsplit('.')[1]}").write_bytes(copies[copy].read_bytes())
        return node(name, share, **settings).start().measure(len(names))
    return make


def known(node, recording=RECORDING):
    """What a node knows of the recording; nothing yet is `{}`."""
    try:
        return node.get(f"/api/audio/canonical/{recording}")
    except requests.HTTPError as error:
        assert error.response.status_code == 404, error
        return {}


def knows(node, words, of, recording=RECORDING):
    return until(f"{node.name} knows {words}", lambda: (k := known(node, recording)) and of(k) and k)


def test_three_with_different_copies_agree_on_the_best(sharer, copies):
    clean = content_hash(copies["clean.flac"])
    one = sharer("one", "clean.flac")
    two = sharer("two", "clean.flac", "copy.opus", **{"mesh.peers": one.named})
    three = sharer("three", "copy.opus", "transcode.flac", **{"mesh.peers": f"{one.named};{two.named}"})
    nodes = (one, two, three)
    told = [knows(n, "three copies from two peers", lambda k: k["peers"] == 2 and k["variant_count"] == 3) for n in nodes]
    assert {k["best_variant"]["variant_id"] for k in told} == {clean}
    # The best copy of a peer that has only a lossy one and a suspect is the lossy one.
    assert [k["peers_agreeing"] for k in told] == [1, 1, 2]
    assert [k["keys_agreeing"] for k in told] == [2, 2, 2]
    scores = {round(k["canonicality_score"], 4) for k in told}
    assert len(scores) == 1 and 0.5 < scores.pop() <= 1, told
    for k in told:
        assert [v["codec"] for v in k["variants"]] == ["FLAC", "Opus", "FLAC"], k
        assert [v["transcode_suspect"] for v in k["variants"]] == [False, False, True], k
        assert [v["seen_count"] for v in k["variants"]] == [2, 2, 1], k
        assert k["best_variant"]["file_size_bytes"] == copies["clean.flac"].stat().st_size
    assert [[v["local"] for v in k["variants"]] for k in told] == [[True, False, False], [True, True, False],
                                                                   [False, True, True]]
    # Told again after a restart, and after the copy is gone: nobody counts twice, and nobody counts who has none.
    two.kill()
    two.start()
    until("two is back", lambda: two.connected() >= {one.id, three.id} and one.connected() >= {two.id})
    next(two.share.glob("*.flac")).unlink()
    two.measure(1)
    knows(three, "one key with the FLAC", lambda k: k["best_variant"]["seen_count"] == 1 and k["peers_agreeing"] == 1)
    assert known(three)["peers"] == 2 and known(three)["best_variant"]["variant_id"] == clean


def test_a_recording_is_fetched_by_the_copy_most_agree_on(sharer, node, copies):
    clean = content_hash(copies["clean.flac"])
    one, two = sharer("one", "clean.flac"), sharer("two", "clean.flac", "transcode.flac")
    three = sharer("three", "copy.opus")
    fetcher = node("fetcher", **{"mesh.peers": ";".join(n.named for n in (one, two, three))}).start()
    k = knows(fetcher, "three copies", lambda k: k["variant_count"] == 3 and k["peers"] == 3)
    assert k["peers_agreeing"] == 2 and not any(v["local"] for v in k["variants"]), k
    offers = {o["peer"]: o for o in fetcher.get(f"/api/mesh/recordings/{RECORDING}/offers")}
    assert {peer: o["content_hash"] == clean for peer, o in offers.items()} == {one.id: True, two.id: True, three.id: False}
    assert offers[one.id]["file_size_bytes"] == copies["clean.flac"].stat().st_size
    releases = {r["peer"]: r for r in fetcher.get(f"/api/mesh/releases/{RELEASE}")}
    assert {peer: (r["lossless"], len(r["tracks"])) for peer, r in releases.items()} == {
        one.id: (True, 1), two.id: (True, 2), three.id: (False, 1)}, releases
    assert releases[one.id]["tracks"][0]["mb_recording_id"] == str(RECORDING) and releases[one.id]["artist"] == "Somebody"
    # The hashes of all three came by their own way.
    for v in k["variants"]:
        path = f"/api/mesh/hashes/{v['flac_key']}"
        found = until("hashes are known", lambda path=path: fetcher.get(path))
        assert v["variant_id"] in {f["content_hash"] for f in found}, (v, found)
    path = f"/api/mesh/recordings/{RECORDING}/fetch"
    assert fetcher.call("POST", path, json={"mode": "worst"}).status_code == 400
    assert fetcher.call("POST", f"/api/mesh/recordings/{uuid.uuid4()}/fetch").status_code == 404
    assert fetcher.post(path, {}).json() == {"content_hash": clean, "by_hash": False}
    done = until("it is there", lambda: (f := fetcher.fetched(clean))["state"] == "done" and f)
    assert content_hash(done["local_path"]) == clean and done["local_path"].endswith(".flac")
    # With a good copy of its own a box fetches no other of the same score.
    refused = one.call("POST", path)
    assert refused.status_code == 400, refused.text


def test_one_key_has_one_vote(node):
    one, keys, content = node("one").start(), [Key(), Key()], "ab" * 32

    async def vote(key, *adverts):
        async with stranger(one.settings["mesh.port"], key) as peer:
            await peer.greet(features="mesh mbid")
            for words in adverts:
                peer.say(words)
            peer.say(frame(PING))
            await peer.until(lambda: PONG in [kind for kind, _ in kinds(peer)] or None)
            for n, _ in enumerate(adverts):
                await asyncio.to_thread(until, f"advert {n + 1} was heard", lambda: known(one))
    asyncio.run(vote(keys[0], advert([(RECORDING, [claim(content)])])))
    first = knows(one, "one peer's word", lambda k: k["peers"] == 1)
    assert first["peers_agreeing"] == 1 and first["best_variant"]["seen_count"] == 1, first
    # Again, with other words, twice in one bundle, and once more in another list after coming back.
    twice = advert([(RECORDING, [claim(content, quality=0.5), claim(content, quality=0.6)])], after=1, sequence=2,
                   snapshot=False)
    asyncio.run(vote(keys[0], twice))
    knows(one, "its newer word", lambda k: abs(k["best_variant"]["quality_score"] - 0.6) < 1e-3)
    asyncio.run(vote(keys[0], advert([(RECORDING, [claim(content, quality=0.7)])], bundle=78, sequence=9)))
    k = knows(one, "its last word", lambda k: abs(k["best_variant"]["quality_score"] - 0.7) < 1e-3)
    assert (k["peers"], k["peers_agreeing"], k["best_variant"]["seen_count"], k["variant_count"]) == (1, 1, 1, 1), k
    asyncio.run(vote(keys[1], advert([(RECORDING, [claim(content)])])))
    k = knows(one, "a second key", lambda k: k["peers"] == 2)
    assert (k["peers_agreeing"], k["best_variant"]["seen_count"]) == (2, 2), k
    # A snapshot without it takes the word back.
    asyncio.run(vote(keys[1], advert([], bundle=79)))
    knows(one, "that it was taken back", lambda k: k["peers"] == 1)


def kinds(peer):
    import struct
    data, found = bytes(peer.received.get(0, b"")), []
    while len(data) >= 23:
        _, kind, _, length = struct.unpack("<BH16sI", data[:23])
        if len(data) < 23 + length:
            break
        found.append((kind, data[23:23 + length]))
        data = data[23 + length:]
    return found


def test_only_what_is_shared_is_told_and_no_names(tmp_path, sharer, copies):
    one = sharer("one", "clean.flac", "copy.opus")
    private = tmp_path / "private"
    private.mkdir()
    (private / "private.flac").write_bytes(copies["transcode.flac"].read_bytes())
    scan = one.post("/api/library/health/scans", {"library_path": str(private), "offline": True}).json()["scan_id"]
    until("it is measured", lambda: one.get(f"/api/library/health/scans/{scan}")["status"] == "completed")
    until("three copies are known here", lambda: len(known(one)["variants"]) == 3)
    contents = {name: bytes.fromhex(content_hash(path)) for name, path in copies.items()}

    async def talk():
        async with stranger(one.settings["mesh.port"], Key()) as peer:
            await peer.greet(features="mesh mbid hash_sync")

            async def answer(kind, words=b""):
                before = len([k for k, _ in kinds(peer) if k == kind])
                peer.say(words)
                return await peer.until(lambda: next(iter([b for k, b in kinds(peer) if k == kind][before:]), None))
            told = [await answer(SYNC_HELLO)]
            told.append(await answer(ADVERT, frame(ASK, b"\0" + varint(0) + varint(0))))
            told.append(await answer(DESCRIPTOR, frame(ASK, b"\1" + varint(RELEASE.int))))
            told.append(await answer(SYNC_DELTA, frame(SYNC_ASK, varint(0) + varint(1000))))
            wanted = varint(1) + option(RECORDING.int, varint) + bytes([5]) + varint(0) + b"\0" + b"\0"
            job = varint(42) + b"\0" + b"\0" + varint(1) + wanted + varint(0) + varint(600) * 4 + b"\1"
            told.append(await answer(CACHE_JOB, frame(CACHE_JOB, job)))
            # And the file itself, on streams of its own.
            data, content = copies["clean.flac"].read_bytes(), contents["clean.flac"]
            peer.say(frame(QUERY, content))
            await answer(HOLDING)
            pieces = peer.stream()
            peer.say(frame(LIST, content + varint(len(data))), pieces, True)
            assert (await peer.frames(1, pieces))[0][0] == GRANTED
            piece = peer.stream()
            peer.say(chunk(content.hex(), 0, min(len(data), 65536)), piece, True)
            await peer.until(lambda: data[:65536] in bytes(peer.received.get(piece, b"")) or None)
            return told, b"".join(map(bytes, peer.received.values()))
    told, sent = asyncio.run(talk())
    hello, bundle, descriptor, delta, offer = told
    assert all(words in sent for words in told)
    for words in (bundle, delta):
        assert contents["clean.flac"] in words and contents["copy.opus"] in words
    assert b"As recorded" in bundle and b"As recorded" in descriptor and RECORDING.bytes not in hello
    assert contents["clean.flac"] in offer and contents["copy.opus"] not in offer, "the best one is offered"
    for words in (*told, sent):
        assert b"secret" not in words and b"private" not in words and str(tmp_path).encode() not in words
        assert contents["transcode.flac"] not in words, "it is not shared"


def test_floods_and_lies_are_refused_and_named_and_others_are_not_affected(sharer, node):
    one = sharer("one", "clean.flac")
    other = node("other", **{"mesh.peers": one.named}).start()
    knows(other, "the copy of one", lambda k: k["peers_agreeing"] == 1)
    good, content = uuid.uuid4(), "cd" * 32
    flood = [advert([(uuid.uuid4(), [claim(content)])], after=n, sequence=n + 1, snapshot=n == 0) for n in range(10_000)]
    lies = {
        "file_size_bytes cannot be 0": advert([(good, [claim(content, size=0)])]),
        "file_size_bytes cannot be 10000000000": advert([(good, [claim(content, size=10_000_000_000)])]),
        "quality_score cannot be 1.5": advert([(good, [claim(content, quality=1.5)])]),
        "quality_score cannot be NaN": advert([(good, [claim(content, quality=float("nan"))])]),
        "a codec is told to be what it is not": advert([(good, [claim(content, lossless=False)])]),
        "a recording of the id 0": advert([(uuid.UUID(int=0), [claim(content)])]),
        "a bundle without an id": advert([], bundle=0),
        "the body of a frame of kind 6 is malformed": advert([(good, [claim(content)] * 5)]),
        "longer than 65513": frame(ADVERT, length=65_514),
        "hashes that nobody asked for": frame(SYNC_DELTA, varint(1) + varint(0) + varint(0) + b"\0"),
        "too many messages": b"".join(flood),
    }

    async def talk(why, words):
        key = Key()
        async with stranger(one.settings["mesh.port"], key) as peer:
            await peer.greet(features="mesh mbid hash_sync")
            peer.say(words)
            assert await peer.closed() == VIOLATION, why
        named = [line for line in one.log().splitlines() if key.id in line and why in line]
        assert named, (why, one.log()[-3000:])
    for why, words in lies.items():
        asyncio.run(talk(why, words))
    assert other.connected() == {one.id} and one.process.alive() and "panicked" not in one.log()
    assert known(one, good) == {}, "nothing of it was believed"

    async def honest():
        async with stranger(one.settings["mesh.port"], Key()) as peer:
            await peer.greet(features="mesh mbid")
            peer.say(advert([(good, [claim(content)])]))
            await asyncio.to_thread(knows, one, "an honest word", lambda k: k["peers"] == 1, good)
    asyncio.run(honest())
    assert known(other)["peers_agreeing"] == 1
