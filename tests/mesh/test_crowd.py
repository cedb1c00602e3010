"""A thousand strangers at the door, and peers who ask for more than there are buffers for."""
import asyncio
import contextlib
import json
import shutil
import subprocess
import sys

import pytest

from node import HERE, MIB, noise, until
from stranger import GRANTED, HOLDING, PING, QUERY, REFUSED, Key, chunk, frame, hello, stranger, varint
from world import sha256

CROWD, KEYS, CONNECTIONS = 1000, 100, 50
BUDGET = 160 * MIB
# Of the pool; requests of one peer at once.
BLOCKS, STREAMS = 256, 16
FRIENDS = 25
# Bytes that a slow reader takes of a stream in a second: above the floor.
SIP = 4096


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    """A short one: 2 MiB and its content hash."""
    path = tmp_path_factory.mktemp("song") / "noise.wav"
    return path, noise(path, 2)


@contextlib.contextmanager
def crowd(port, count=CROWD):
    """See crowd.py."""
    command = [sys.executable, HERE / "crowd.py", str(port), str(count), str(KEYS)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait()


def anonymous(node):
    """Bytes of memory that are the process's own."""
    for line in open(f"/proc/{node.process.process.pid}/status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


def strangers(node):
    return [peer for peer in node.peers().values() if peer["connected"] and not peer["named"]]


def test_a_thousand_strangers_do_not_keep_out_a_friend(node, song, tmp_path):
    path, content = song
    friend = node("friend").start()
    named, name = friend.named, friend.id
    friend.stop()
    share = tmp_path / "music"
    share.mkdir()
    shutil.copy(path, share / "song.wav")
    one = node("one", share, **{"mesh.peers": named}).start().measure()
    with crowd(one.settings["mesh.port"]) as process:
        first = json.loads(process.stdout.readline())
        assert first["answered"] == CROWD
        until("strangers have all seats but the friend's", lambda: len(strangers(one)) >= CONNECTIONS - 1, 300)
        seen = one.get("/api/mesh")
        print(f"{CROWD} strangers at once: {first}; refused by reason {seen['connections_refused_by']}; "
              f"{anonymous(one) / MIB:.0f} MiB")
        # Some come and go; never more.
        assert seen["connected"] <= CONNECTIONS - 1, seen
        # The friend comes now, and is served. It calls; what one knows of it is its key.
        friend.settings["mesh.peers"] = one.named
        friend.start()
        until("the friend is in", lambda: one.id in friend.connected() and name in one.connected())
        friend.fetch(content, path.stat().st_size, "song.wav")
        until("the friend is served", lambda: friend.fetched(content)["state"] == "done", 300)
        assert sha256(friend.fetched(content)["local_path"]) == sha256(path)
        assert one.get("/api/mesh")["connected"] <= CONNECTIONS
        most = anonymous(one)
        assert most < BUDGET, most
        process.stdin.close()
        print(f"at the end: {json.loads(process.stdout.readline())}; {most / MIB:.0f} MiB")
        seen = one.get("/api/mesh")
    by = seen["connections_refused_by"]
    assert seen["connections_refused"] == sum(by.values()) >= CROWD - CONNECTIONS
    assert by["full"] + by["handshakes"] >= CROWD - CONNECTIONS - by["handshake_failed"], by
    metrics = one.call("GET", "/metrics").text
    assert all(f'"{reason}"' in metrics for reason in by if by[reason]), metrics
    told = [line for line in one.log().splitlines() if "mesh callers are refused" in line]
    assert told and len(told) < 60, "named, but not one line each"
    assert all("why=" in line and "address=127.0.0." in line for line in told), told
    assert one.process.alive() and "panicked" not in one.log()
    # Everybody can come again when they have gone.
    until("they are gone", lambda: not strangers(one))

    async def come():
        async with stranger(one.settings["mesh.port"], Key()) as peer:
            await peer.greet()
    asyncio.run(come())
    # A crowd keeps nobody from stopping.
    with crowd(one.settings["mesh.port"], KEYS) as process:
        process.stdout.readline()
        one.stop()
        assert "stopping" in one.log() and "in time" not in one.log()


class Reader:
    """A peer that asks for pieces on many streams and reads next to nothing of them until it is told to."""

    def __init__(self, peer):
        self.peer, self.pieces = peer, {}
        quic = peer._quic
        self.limits, quic._write_stream_limits = quic._write_stream_limits, self.narrow

    def narrow(self, builder, space, stream):
        """In the place of aioquic's own: no more room for what came, but what `sip` gave."""
        receiver = stream.receiver
        came, receiver.highest_offset = receiver.highest_offset, 0 if stream.stream_id else receiver.highest_offset
        self.limits(builder=builder, space=space, stream=stream)
        receiver.highest_offset = came

    def ask(self, content, length, count):
        for n in range(count):
            stream = self.peer.stream()
            self.pieces[stream] = (n % (2 * MIB // length - 1) * length, length)
            self.peer.say(chunk(content, *self.pieces[stream]), stream, True)

    def sip(self):
        """A little, so that it is slow and not gone."""
        for stream in self.pieces:
            stream = self.peer._quic._streams.get(stream)
            if stream and stream.receiver.highest_offset >= stream.max_stream_data_local:
                stream.max_stream_data_local += SIP
        # Or the node would ask whether it is still there.
        self.peer.say(frame(PING))

    def read(self):
        self.peer._quic._write_stream_limits = self.limits
        self.peer.transmit()

    def waiting(self):
        """Requests that were granted, and of which no byte came."""
        return sum(len(self.peer.received.get(stream, b"")) in range(23, 23 + 5) for stream in self.pieces)

    async def whole(self, data):
        for stream, (offset, length) in self.pieces.items():
            def came(stream=stream, length=length):
                received = self.peer.received.get(stream, b"")
                assert stream not in self.peer.broken and not self.peer.ended
                head = 23 + int.from_bytes(received[19:23], "little")
                return bytes(received) if len(received) >= max(head, 24) and len(received) >= head + length else None
            async with asyncio.timeout(300):
                while (piece := came()) is None:
                    await asyncio.sleep(0.1)
            assert int.from_bytes(piece[1:3], "little") == GRANTED and piece[-length:] == data[offset:offset + length]


def free(node):
    """Blocks of the pool that are free."""
    for line in node.call("GET", "/metrics").text.splitlines():
        if "buffers" in line and '"free"' in line:
            return int(float(line.split()[-1]))
    raise AssertionError("no buffers in the metrics")


def test_slow_readers_take_the_whole_pool_and_everything_comes(node, song, tmp_path):
    path, content = song
    data = path.read_bytes()
    friends = [Key() for _ in range(FRIENDS)]
    share = tmp_path / "music"
    share.mkdir()
    shutil.copy(path, share / "song.wav")
    # They call; nobody can call them.
    named = ";".join(f"{key.id}@friend.invalid:1" for key in friends)
    one = node("one", share, **{"mesh.peers": named, "mesh.upload_slots": 50}).start().measure()
    everything = free(one)

    async def talk():
        async with contextlib.AsyncExitStack() as stack:
            async def come(key, **words):
                """The peer, or nothing when it is not let in."""
                peer = await stack.enter_async_context(stranger(one.settings["mesh.port"], key, **words))
                peer.say(hello())
                came = await peer.until(lambda: peer.ended or (True if peer.received.get(0) else None))
                return peer if came is True else None

            readers, others = [], []

            async def live():
                while True:
                    for reader in readers:
                        reader.sip()
                    for peer in others:
                        peer.say(frame(PING))
                    await asyncio.sleep(1)

            async def slow(key):
                readers.append(Reader(await come(key, max_stream_data=SIP)))
                return readers[-1]

            async def fill(key):
                """Connections of people who ask for nothing, until there are no buffers for one more."""
                while (peer := await come(key())):
                    others.append(peer)

            living = asyncio.create_task(live())
            witness = await come(Key())
            others.append(witness)
            # While there are many blocks each request has several.
            (await slow(Key())).ask(content, 512 * 1024, STREAMS)
            await asyncio.to_thread(until, "half of the pool is taken", lambda: free(one) <= BLOCKS // 2)
            for _ in range(2):
                (await slow(Key())).ask(content, 128 * 1024, STREAMS)
            last = await slow(friends.pop())
            # Strangers leave a quarter, which is the friends'.
            await fill(Key)
            left = await asyncio.to_thread(free, one)
            await fill(friends.pop)
            assert left >= BLOCKS // 4 > 3 > await asyncio.to_thread(free, one)
            last.ask(content, 128 * 1024, STREAMS)
            await asyncio.to_thread(until, "nothing is left of the pool", lambda: free(one) == 0)
            await asyncio.to_thread(until, "senders wait for a block", lambda: last.waiting() >= STREAMS - 3)
            # Nobody waits who need not: a question is answered, and one request more is told to come later.
            stream = witness.stream()
            witness.say(frame(QUERY, bytes.fromhex(content)))
            witness.say(chunk(content, 0, 65536), stream, True)
            assert [kind for kind, _ in await witness.frames(1, stream)] == [REFUSED]
            await witness.until(lambda: True if frame(HOLDING, b"\1" + varint(len(data))) in witness.received[0] else None)
            assert not any(reader.peer.broken for reader in readers), "slow, not too slow"
            seen = one.get("/api/mesh")
            for reader in readers:
                reader.read()
            await asyncio.gather(*(reader.whole(data) for reader in readers))
            living.cancel()
            return left, seen, len(others) + len(readers)
    left, seen, peers = asyncio.run(talk())
    until("every block comes back", lambda: free(one) == everything)
    print(f"{everything} blocks: strangers left {left}, friends none, {peers} connections; uploads {seen['uploads']}")
    assert one.process.alive() and "panicked" not in one.log()
    # And there is room for whoever comes now.
    asyncio.run(again(one, content, data))


def test_who_fills_its_window_with_a_file_loses_the_file_first(node, song, tmp_path):
    path, content = song
    share = tmp_path / "music"
    share.mkdir()
    shutil.copy(path, share / "song.wav")
    one = node("one", share).start().measure()

    async def talk():
        async with stranger(one.settings["mesh.port"], Key(), max_data=65536) as peer:
            peer._quic._write_connection_limits = lambda *_, **__: None
            await peer.greet()
            stream = peer.stream()
            peer.say(chunk(content, 0, 512 * 1024), stream, True)
            await peer.until(lambda: True if peer._quic._local_max_data.used == 65536 else None)
            # The answer finds no room in the window.
            peer.say(frame(PING))
            async with asyncio.timeout(300):
                while not peer.broken and not peer.ended:
                    await peer.news.wait()
                    peer.news.clear()
            assert peer.broken == {stream} and not peer.ended, (peer.broken, peer.ended)
    asyncio.run(talk())


async def again(one, content, data):
    async with stranger(one.settings["mesh.port"], Key()) as peer:
        await peer.greet()
        stream = peer.stream()
        peer.say(chunk(content, 0, 65536), stream, True)
        await peer.until(lambda: True if peer.received.get(stream, b"")[-65536:] == data[:65536] else None)
