"""A thousand strangers at the door, and peers who ask for more than there are buffers for."""
import asyncio
import contextlib
import json
import shutil
import subprocess
import sys

import pytest

from node import HERE, MIB, noise, until
from stranger import GRANTED, REFUSED, Key, chunk, stranger
from world import sha256

CROWD, KEYS, CONNECTIONS = 1000, 100, 50
BUDGET = 160 * MIB
READERS = 48


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


class Reader:
    """A stranger that asks for pieces on many streams and reads nothing until it is told to."""

    def __init__(self, peer, content, size):
        self.peer, self.content, self.size, self.refused = peer, content, size, 0
        quic = peer._quic
        self.quiet = (quic._write_connection_limits, quic._write_stream_limits)
        # What came is taken, but no room for more is ever given.
        quic._write_connection_limits = quic._write_stream_limits = lambda *_, **__: None

    def read(self):
        quic = self.peer._quic
        quic._write_connection_limits, quic._write_stream_limits = self.quiet
        self.peer.transmit()

    async def piece(self, data, offset, length):
        """Until it has come, whole."""
        while True:
            stream = self.peer.stream()
            self.peer.say(chunk(self.content, offset, length), stream, True)
            try:
                (kind, _), = await self.peer.frames(1, stream)
            except TimeoutError:
                # Even the refusal was broken off.
                continue
            if kind == GRANTED:
                head = 23 + len(first_body(self.peer.received[stream]))
                try:
                    async with asyncio.timeout(60):
                        body = await self.peer.until(
                            lambda s=stream, n=head + length:
                            bytes(self.peer.received[s][head:]) if len(self.peer.received[s]) >= n else None)
                    assert body == data[offset:offset + length]
                    return
                except TimeoutError:
                    # It was broken off: we were too slow.
                    pass
            else:
                assert kind == REFUSED, kind
                self.refused += 1
                await asyncio.sleep(0.5)


def first_body(received):
    """The body of the first frame."""
    return bytes(received[23:23 + int.from_bytes(received[19:23], "little")])


def free(node):
    """Blocks of the pool that are free."""
    for line in node.call("GET", "/metrics").text.splitlines():
        if "buffers" in line and '"free"' in line:
            return int(float(line.split()[-1]))
    raise AssertionError("no buffers in the metrics")


def test_whoever_reads_nothing_takes_no_more_than_a_part_of_the_pool_and_everything_comes(node, song, tmp_path):
    path, content = song
    data, length = path.read_bytes(), 512 * 1024
    friend = node("friend").start()
    share = tmp_path / "music"
    share.mkdir()
    shutil.copy(path, share / "song.wav")
    one = node("one", share, **{"mesh.peers": friend.named, "mesh.upload_slots": 50}).start().measure()
    friend.stop()
    friend.settings["mesh.peers"] = one.named
    everything = free(one)

    async def talk():
        async with contextlib.AsyncExitStack() as stack:
            readers = []
            for _ in range(READERS):
                peer = await stack.enter_async_context(stranger(one.settings["mesh.port"], Key()))
                await peer.greet()
                readers.append(Reader(peer, content, len(data)))
            pieces = [asyncio.create_task(reader.piece(data, (n + at) % 3 * length, length))
                      for n, reader in enumerate(readers) for at in range(2)]
            # Nobody reads: what is granted stays where it is.
            least = everything

            def scarce():
                nonlocal least
                least = min(least, free(one))
                return least < everything // 3
            await asyncio.to_thread(until, "two thirds of the pool are taken", scarce)
            await asyncio.to_thread(friend.start)
            await asyncio.to_thread(until, "a friend comes in all the same", lambda: one.id in friend.connected())
            await asyncio.to_thread(friend.fetch, content, len(data), "song.wav")
            await asyncio.to_thread(until, "and is served", lambda: friend.fetched(content)["bytes_done"] > 0, 300)
            for reader in readers:
                reader.read()
            await asyncio.gather(*pieces)
            await asyncio.to_thread(until, "whole", lambda: friend.fetched(content)["state"] == "done", 300)
            return least, sum(reader.refused for reader in readers)
    least, refused = asyncio.run(talk())
    assert sha256(friend.fetched(content)["local_path"]) == sha256(path)
    friend.stop()
    until("every block comes back", lambda: free(one) >= everything - 20)
    print(f"of {everything} blocks {least} were free; {refused} requests were told to come later; {2 * READERS} pieces and a file of "
          f"{len(data)} bytes came")
    assert one.process.alive() and "panicked" not in one.log()
