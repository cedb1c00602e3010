"""A mesh peer that is not ours: aioquic with an Ed25519 certificate made by cryptography. It says what tests tell it to."""
import asyncio
import datetime
import os
import struct
from contextlib import asynccontextmanager

from aioquic.asyncio import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamDataReceived, StreamReset
from blake3 import blake3
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

PATIENCE = 30
VIOLATION, BANNED = 2, 4

HELLO, PING, PONG, QUERY, HOLDING, ADVERT, DESCRIPTOR, CACHE_JOB, SYNC_HELLO, SYNC_ASK, SYNC_DELTA, ASK = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15
LIST, CHUNK, GRANTED, REFUSED = 16, 17, 18, 19


def varint(n):
    """Postcard's unsigned integer."""
    out = bytearray()
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out + bytes([n]))


def text(s):
    return varint(len(s.encode())) + s.encode()


def frame(kind, body=b"", id=b"\0" * 16, version=1, length=None):
    return struct.pack("<BH16sI", version, kind, id, len(body) if length is None else length) + body


def hello(version=1, username="", features="mesh swimming"):
    return frame(HELLO, varint(version) + varint(7) + varint(0) + text(features) + text("stranger/1") + varint(0)
                 + text(username))


def chunk(content, offset, length):
    return frame(CHUNK, bytes.fromhex(content) + varint(offset) + varint(length) + bytes([5]) + varint(5000))


def option(value, write=bytes):
    return b"\0" if value is None else b"\1" + write(value)


def claim(content, size=30_000_000, quality=0.95, codec=0, lossless=True, duration_ms=180_000, suspect=False):
    """A FLAC unless told otherwise, as kind 6 has it."""
    return (bytes.fromhex(content) + bytes(32) + varint(5) + varint(size) + varint(codec) + varint(0) + bytes([lossless])
            + varint(44_100) + option(16 if lossless else None, lambda bits: bytes([bits])) + bytes([2]) + varint(duration_ms)
            + varint(900) + bytes([suspect]) + struct.pack("<f", quality) + b"\0\0\0\0")


def advert(recordings, after=0, sequence=1, snapshot=True, bundle=77):
    """`recordings`: pairs of a recording's id and claims."""
    body = varint(bundle) + varint(after) + varint(sequence) + bytes([snapshot]) + varint(len(recordings))
    for id, claims in recordings:
        body += option(id.int, varint) + b"\0\0\0\0" + varint(len(claims)) + b"".join(claims)
    return frame(ADVERT, body)


class Key:
    def __init__(self):
        self.private = Ed25519PrivateKey.generate()
        raw = self.private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.id = blake3(raw).hexdigest()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])
        day = datetime.datetime(2001, 1, 1)
        # Long over: dates mean nothing here.
        self.certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1)
                            .public_key(self.private.public_key()).not_valid_before(day)
                            .not_valid_after(day + datetime.timedelta(days=1)).sign(self.private, None))


class Protocol(QuicConnectionProtocol):
    def __init__(self, *arguments, **kw):
        super().__init__(*arguments, **kw)
        self.received, self.broken, self.ended, self.news = {}, set(), None, asyncio.Event()

    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            self.received.setdefault(event.stream_id, bytearray()).extend(event.data)
        elif isinstance(event, StreamReset):
            self.broken.add(event.stream_id)
        elif isinstance(event, ConnectionTerminated):
            self.ended = event
        self.news.set()

    async def until(self, ask):
        async with asyncio.timeout(PATIENCE):
            while (answer := ask()) is None:
                await self.news.wait()
                self.news.clear()
        return answer

    def say(self, data, stream=0, end=False):
        self._quic.send_stream_data(stream, data, end)
        self.transmit()

    def stream(self):
        return self._quic.get_next_available_stream_id()

    async def frames(self, count, stream=0):
        """The first so many frames of a stream: kind and body."""
        def whole():
            data, found = bytes(self.received.get(stream, b"")), []
            while len(data) >= 23:
                _, kind, _, length = struct.unpack("<BH16sI", data[:23])
                if len(data) < 23 + length:
                    break
                found.append((kind, data[23:23 + length]))
                data = data[23 + length:]
            return found[:count] if len(found) >= count else None
        return await self.until(whole)

    async def closed(self):
        """The code the connection was closed with."""
        return (await self.until(lambda: self.ended)).error_code

    async def greet(self, **words):
        self.say(hello(**words))
        kind, body = (await self.frames(1))[0]
        assert kind == HELLO and b"slskdn/" in body, (kind, body)
        return self


@asynccontextmanager
async def stranger(port, key=None, alpn="slskdn-mesh/1", **words):
    """A connection to a node; without a key it shows no certificate. The words are aioquic's settings."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=[alpn], verify_mode=0, idle_timeout=PATIENCE,
                                      server_name="slskdn", **words)
    if key:
        configuration.certificate, configuration.private_key = key.certificate, key.private
    async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Protocol) as protocol:
        yield protocol


async def source(peer, data, deed):
    """Serves a file as a peer would: everything asked for is had. `deed` is what is wrong with it."""
    pieces = [data[at:at + 65536] for at in range(0, len(data), 65536)]
    answered, queries = set(), 0
    while True:
        await peer.news.wait()
        peer.news.clear()
        control = bytes(peer.received.get(0, b""))
        at, count = 0, 0
        while len(control) - at >= 23:
            _, kind, id, length = struct.unpack("<BH16sI", control[at:at + 23])
            if len(control) - at < 23 + length:
                break
            at, count = at + 23 + length, count + 1
            if count > queries and kind == QUERY:
                peer.say(frame(HOLDING, b"\1" + varint(len(data)), id))
        queries = max(queries, count)
        for stream, request in list(peer.received.items()):
            if stream % 4 != 1 or stream in answered or len(request) < 23:
                continue
            _, kind, id, length = struct.unpack("<BH16sI", request[:23])
            if len(request) < 23 + length:
                continue
            answered.add(stream)
            if kind == LIST and deed == "lying list":
                body = os.urandom(len(pieces) * 32)
                peer.say(frame(GRANTED, varint(len(body)), id) + body, stream, True)
            elif kind == LIST:
                peer.say(frame(REFUSED, b"\0", id), stream, True)
            elif kind == CHUNK:
                offset, rest = take(bytes(request[23 + 32:]))
                count, _ = take(rest)
                peer.say(frame(GRANTED, varint(count), id), stream)
                if deed == "nothing":
                    peer.say(data[offset:offset + count], stream, True)
                if deed == "bad pieces":
                    body = bytearray(data[offset:offset + count])
                    body[len(body) // 2 % 65536] ^= 1
                    peer.say(bytes(body), stream, True)


def take(data):
    """Postcard's unsigned integer at the beginning, and what follows."""
    n = 0
    for at, byte in enumerate(data):
        n |= (byte & 0x7F) << (7 * at)
        if byte < 0x80:
            return n, data[at + 1:]
    raise ValueError(data)


def garbage(n):
    return os.urandom(n)
