"""Peers with the wrong key, peers that are not ours, and peers that mean ill."""
import asyncio
import random
import secrets

from node import until
from stranger import (BANNED, CHUNK, GRANTED, HOLDING, LIST, PING, PONG, QUERY, REFUSED, VIOLATION, Key, chunk, frame,
                      garbage, hello, source, stranger, varint)
from world import sha256


def port(node):
    return node.settings["mesh.port"]


def test_a_peer_with_another_key_than_named_is_refused(node):
    one = node("one").start()
    wrong = Key().id
    other = node("other", **{"mesh.peers": f"{wrong}@127.0.0.1:{port(one)}"}).start()
    told = until("it says why", lambda: other.peers()[wrong]["problem"])
    assert "has another key than the one that is named" in told, told
    assert not other.connected() and not one.connected()
    until("it is counted", lambda: one.get("/api/mesh")["connections_refused"] >= 1)


def test_a_banned_key_is_not_let_in_and_not_called(node):
    one = node("one").start()
    other = node("other", **{"mesh.peers": one.named}).start()
    until("they meet", lambda: other.connected() == {one.id})
    name = one.id
    one.stop()
    one.settings["mesh.banned"] = other.id
    one.start()
    until("the ban is told", lambda: "it bans us" in other.peers()[name]["problem"])
    other.stop()
    other.settings["mesh.banned"] = name
    other.start()
    until("a banned one is not called", lambda: "bans it" in other.peers()[name]["problem"])


def test_two_that_name_each_other_have_one_connection(node):
    first, second = node("first").start(), node("second").start()
    names = first.named, second.named
    for one, other in ((first, names[1]), (second, names[0])):
        one.stop()
        one.settings["mesh.peers"] = other
    first.start()
    second.start()
    ids = [name.split("@")[0] for name in names]
    until("they meet", lambda: first.connected() == {ids[1]} and second.connected() == {ids[0]})
    # Each may hold a connection of its own for a moment.
    until("one is left", lambda: {p["dialled"] for n in (first, second) for p in n.peers().values()} == {True, False})


def test_a_peer_that_is_not_ours_fetches_a_verified_piece(holders, song):
    (holder,), (path, content) = holders(1), song
    data = path.read_bytes()

    async def talk():
        async with stranger(port(holder), key := Key()) as peer:
            await peer.greet()
            seen = holder.peers()[key.id]
            assert seen["connected"] and seen["features"] == ["mesh", "swimming"] and seen["software"] == "stranger/1"
            peer.say(frame(0x7777, garbage(1000)) + frame(PING, id=b"p" * 16) + frame(QUERY, bytes.fromhex(content))
                     + frame(QUERY, bytes(32)))
            frames = (await peer.frames(4))[1:]
            assert sorted(frames) == sorted([(PONG, b""), (HOLDING, b"\1" + varint(len(data))), (HOLDING, b"\0")])
            last = len(data) // 65536 * 65536
            wants = [(chunk(content, 65536, 131072), data[65536:65536 + 131072]),
                     (chunk(content, last, len(data) - last), data[last:])]
            for request, expected in wants:
                at = peer.stream()
                peer.say(request, at, True)
                assert await peer.frames(1, at) == [(GRANTED, varint(len(expected)))]
                body = await peer.until(lambda at=at, n=len(expected):
                                        bytes(peer.received[at][-n:]) if len(peer.received[at]) >= n + 24 else None)
                assert body == expected
            at = peer.stream()
            peer.say(frame(LIST, bytes.fromhex(content) + varint(len(data))), at, True)
            assert (await peer.frames(1, at))[0][0] == GRANTED
            for request, code in ((chunk(content, 1, 5), 5), (chunk(content, 1 << 40, 5), 5), (chunk(content, 0, 1 << 20), 5),
                                  (chunk("00" * 32, 0, 5), 1), (frame(LIST, bytes.fromhex(content) + varint(99999)), 1)):
                at = peer.stream()
                peer.say(request, at, True)
                assert await peer.frames(1, at) == [(REFUSED, bytes([code]))]
    asyncio.run(talk())
    # Changed since it was measured: not served any more.
    shared = next(holder.share.iterdir())
    shared.write_bytes(data[:-1] + b"x")

    async def again():
        async with stranger(port(holder), Key()) as peer:
            await peer.greet()
            peer.say(frame(QUERY, bytes.fromhex(content)))
            assert (await peer.frames(2))[1] == (HOLDING, b"\0")
    asyncio.run(again())


def test_who_breaks_the_rules_is_closed_banned_for_a_while_and_nobody_else_is(node):
    one = node("one").start()
    other = node("other", **{"mesh.peers": one.named}).start()
    until("they meet", lambda: other.connected() == {one.id})
    seed = secrets.randbelow(1 << 32)
    print(f"SOAK_SEED={seed}")
    dice = random.Random(seed)
    noise = dice.randbytes(5000)
    before = [frame(PING), frame(2, b"x"), noise, frame(PING, length=65536), frame(PING, version=2), hello()[:-1] + b"\xff",
              frame(1, b"\xff" * 40)]
    after = [hello(), noise, frame(PING, length=(1 << 32) - 1), frame(CHUNK), frame(GRANTED, b"\5"), frame(QUERY, b"short"),
             frame(PING) * 200]
    on_its_own = [frame(PING), noise, frame(CHUNK, b"x" * 50), frame(LIST, length=70000), hello()]

    async def talk():
        for bad in before:
            async with stranger(port(one), Key()) as peer:
                peer.say(bad)
                assert await peer.closed() == VIOLATION, bad[:40]
        for bad in after:
            async with stranger(port(one), Key()) as peer:
                await peer.greet()
                peer.say(bad)
                assert await peer.closed() == VIOLATION, bad[:40]
        for bad in on_its_own:
            async with stranger(port(one), Key()) as peer:
                await peer.greet()
                peer.say(bad, peer.stream(), True)
                assert await peer.closed() == VIOLATION, bad[:40]
        key = Key()
        for _ in range(3):
            async with stranger(port(one), key) as peer:
                peer.say(noise)
                assert await peer.closed() == VIOLATION
        async with stranger(port(one), key) as peer:
            peer.say(hello())
            assert await peer.closed() == BANNED
        # No hello within five seconds, half a hello, a stream that never comes.
        for words in (b"", hello()[:30]):
            async with stranger(port(one), Key()) as peer:
                if words:
                    peer.say(words)
                assert await peer.closed() == VIOLATION
    asyncio.run(talk())
    for key, alpn in ((None, "slskdn-mesh/1"), (Key(), "h3")):
        async def fail():
            async with stranger(port(one), key, alpn) as peer:
                peer.say(hello())
                code = await peer.closed()
                assert 0x100 <= code < 0x200, hex(code)
        # TLS says no during the handshake, or right after it.
        try:
            asyncio.run(fail())
        except ConnectionError:
            pass
    assert other.connected() == {one.id}, "others are not affected"
    assert one.process.alive() and "panicked" not in one.log()


def test_too_many_connections_are_refused_and_leave_room_again(node):
    many = 60
    one = node("one", **{"mesh.max_connections": 5}).start()

    async def talk():
        keys = [Key() for _ in range(many)]

        async def come(key):
            try:
                async with asyncio.timeout(120), stranger(port(one), key) as peer:
                    await peer.greet()
                    await leave.wait()
                    return True
            except (ConnectionError, TimeoutError):
                return False
        leave = asyncio.Event()
        tasks = [asyncio.create_task(come(key)) for key in keys]
        await asyncio.to_thread(until, "five are in", lambda: one.get("/api/mesh")["connected"] == 5)
        while sum(task.done() for task in tasks) < many - 5:
            await asyncio.wait([task for task in tasks if not task.done()], return_when=asyncio.FIRST_COMPLETED)
        assert one.get("/api/mesh")["connected"] == 5
        leave.set()
        assert sum(await asyncio.gather(*tasks)) == 5
        await asyncio.to_thread(until, "all are gone", lambda: one.get("/api/mesh")["connected"] == 0)
        async with stranger(port(one), Key()) as peer:
            await peer.greet()
    asyncio.run(talk())


def test_a_lying_list_closes_the_liar(node, song):
    path, content = song
    one = node("one").start()

    async def talk():
        async with stranger(port(one), Key()) as peer:
            await peer.greet()
            # It waits for requests before the first one comes.
            serving = asyncio.create_task(source(peer, path.read_bytes(), "lying list"))
            await asyncio.to_thread(one.fetch, content, path.stat().st_size, "song.wav")
            assert await peer.closed() == VIOLATION
            serving.cancel()
    asyncio.run(talk())
    assert one.fetched(content)["state"] == "running" and one.fetched(content)["bytes_done"] == 0


def test_the_file_is_whole_beside_one_who_corrupts_and_one_who_stalls(node, holders, song):
    path, content = song
    (holder,) = holders(1, **{"global.upload.speed_limit": 4_000})
    one = node("one", **{"mesh.peers": holder.named}).start()
    until("they meet", lambda: holder.id in one.connected())
    bad, slow, asked = Key(), Key(), set()

    async def talk():
        async with stranger(port(one), bad) as corrupter, stranger(port(one), slow) as staller:
            await corrupter.greet()
            await staller.greet()
            data = path.read_bytes()
            serving = [asyncio.create_task(source(corrupter, data, "bad pieces")),
                       asyncio.create_task(source(staller, data, "stall"))]
            await asyncio.to_thread(one.fetch, content, len(data), "song.wav")
            await asyncio.to_thread(until, "the file is there", lambda: one.fetched(content)["state"] == "done")
            for task in serving:
                task.cancel()
            # Streams that the node opened.
            asked.update(stream for stream in staller.received if stream % 4 == 1)
    asyncio.run(talk())
    done = one.fetched(content)
    assert sha256(done["local_path"]) == sha256(path)
    did = {s["peer"]: s for s in done["sources"]}
    # Runs that were under way when the third bad piece came may bring a few more.
    assert did[bad.id]["dropped"] and did[bad.id]["bytes"] == 0 and 3 <= did[bad.id]["bad_pieces"] <= 6, did
    assert asked and did[slow.id]["bytes"] == 0, (asked, did)
    assert did[holder.id]["bytes"] == path.stat().st_size and did[holder.id]["bad_pieces"] == 0, did
    assert one.get("/api/mesh")["bad_pieces"] == did[bad.id]["bad_pieces"]
    assert bad.id in one.log(), "the sender of a bad piece is named"
