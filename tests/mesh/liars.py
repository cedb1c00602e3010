"""Nodes of the DHT that lie: every one at an address of its own network. `python liars.py MODE COUNT` prints their addresses,
lies until its standard input ends, and prints what was asked of them.

    lies     a third answers nothing but pings; the others say that only liars are near, and that eight peers are at each
             key, at which nobody is; an announcement is taken, and never told again
    endless  every answer names eight nodes nearer to what is looked for, at addresses that nobody heard of before, and all
             of them answer: 127.128.0.0/9 is one socket
"""
import hashlib
import json
import random
import selectors
import socket
import struct
import sys

PORT, ENDLESS_PORT = 6881, 6882
NEAR, PEERS = 8, 8
IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)


def bdecode(data, at=0):
    """A value and where it ends."""
    kind = data[at:at + 1]
    if kind == b"i":
        end = data.index(b"e", at)
        return int(data[at + 1:end]), end + 1
    if kind in (b"l", b"d"):
        items, at = [], at + 1
        while data[at:at + 1] != b"e":
            item, at = bdecode(data, at)
            items.append(item)
        return (items if kind == b"l" else dict(zip(items[::2], items[1::2]))), at + 1
    colon = data.index(b":", at)
    end = colon + 1 + int(data[at:colon])
    return data[colon + 1:end], end


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


def compact(ip, port):
    return socket.inet_aton(ip) + struct.pack(">H", port)


class Liars:
    def __init__(self, mode, count):
        self.mode, self.dice = mode, random.Random(1)
        self.counts = {"queries": 0, "bytes_in": 0, "bytes_out": 0, "lookups_answered": 0}
        self.ips = [f"127.{100 + n}.0.1" for n in range(count)] if mode == "lies" else ["127.128.0.1"]
        self.ids = {ip: hashlib.sha1(ip.encode()).digest() for ip in self.ips}
        self.invented = 0
        self.sockets = {}
        for ip in self.ips if mode == "lies" else ["0.0.0.0"]:
            own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            own.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            own.bind((ip, PORT if mode == "lies" else ENDLESS_PORT))
            self.sockets[own] = ip

    def near(self, target):
        """Nodes in compact form."""
        if self.mode == "lies":
            some = self.dice.sample(self.ips, min(NEAR, len(self.ips)))
            return b"".join(self.ids[ip] + compact(ip, PORT) for ip in some)
        nodes = b""
        for _ in range(NEAR):
            self.invented += 1
            n = self.invented
            # Each nearer than those before: more of the first bytes are right.
            right = min(19, 2 + n // (4 * NEAR))
            id = target[:right] + self.dice.randbytes(20 - right)
            nodes += id + compact(f"127.{128 + (n >> 16 & 127)}.{n >> 8 & 255}.{n & 255}", ENDLESS_PORT)
        return nodes

    def answer(self, at, data):
        """What the node at this address says."""
        query = bdecode(data)[0]
        if query.get(b"y") != b"q":
            return None
        self.counts["queries"] += 1
        what, said = query[b"q"], query[b"a"]
        silent = self.mode == "lies" and self.ips.index(at) % 3 == 0
        if silent and what != b"ping":
            return None
        answer = {b"id": self.ids.get(at) or hashlib.sha1(at.encode()).digest()}
        if what in (b"find_node", b"get_peers"):
            target = said.get(b"target") or said.get(b"info_hash")
            answer[b"nodes"] = self.near(target)
            self.counts["lookups_answered"] += 1
        if what == b"get_peers":
            answer[b"token"] = b"lie!"
            first = 1 + NEAR * (self.ips.index(at) if at in self.ips else 0)
            answer[b"values"] = [compact(f"127.{30 + (first + n) % 30}.{first + n}.9", 4_000) for n in range(PEERS)]
        return bencode({b"t": query[b"t"], b"y": b"r", b"r": answer})

    def run(self):
        print(" ".join(f"{ip}:{PORT if self.mode == 'lies' else ENDLESS_PORT}" for ip in self.ips), flush=True)
        waits = selectors.DefaultSelector()
        waits.register(sys.stdin, selectors.EVENT_READ)
        for own in self.sockets:
            waits.register(own, selectors.EVENT_READ)
        while True:
            for key, _ in waits.select():
                if key.fileobj is sys.stdin:
                    print(json.dumps({**self.counts, "invented": self.invented}), flush=True)
                    return
                data, control, _, sender = key.fileobj.recvmsg(4096, 256)
                at = self.sockets[key.fileobj]
                for _, kind, info in control:
                    if kind == IP_PKTINFO:
                        at = socket.inet_ntoa(info[8:12])
                self.counts["bytes_in"] += len(data)
                try:
                    reply = self.answer(at, data)
                except (ValueError, KeyError, IndexError):
                    continue
                if reply:
                    self.counts["bytes_out"] += len(reply)
                    # From the address that was asked.
                    info = struct.pack("=i4s4s", 0, socket.inet_aton(at), b"\0" * 4)
                    key.fileobj.sendmsg([reply], [(socket.IPPROTO_IP, IP_PKTINFO, info)], 0, sender)


if __name__ == "__main__":
    Liars(sys.argv[1], int(sys.argv[2])).run()
