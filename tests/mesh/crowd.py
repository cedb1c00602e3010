"""Strangers who call one node at once, from many addresses and with many keys, and call again when they are refused: a
process of its own. `python crowd.py PORT COUNT KEYS` prints a line when all have called and been answered once, goes on
calling until its standard input ends, and then prints how the calls ended."""
import asyncio
import collections
import json
import random
import resource
import socket
import sys

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from stranger import PATIENCE, PING, Key, Protocol, frame

ADDRESSES = 50


class Crowd:
    def __init__(self, port, count, keys):
        self.port, self.count, self.keys = port, count, [Key() for _ in range(keys)]
        self.inside, self.ends, self.answered = 0, collections.Counter(), set()
        self.leave, self.all_answered = asyncio.Event(), asyncio.Event()

    def answer(self, n):
        self.answered.add(n)
        if len(self.answered) == self.count:
            self.all_answered.set()

    async def call(self, n):
        """One connection, held while it lasts; how it ended."""
        key = self.keys[n % len(self.keys)]
        configuration = QuicConfiguration(is_client=True, alpn_protocols=["slskdn-mesh/1"], verify_mode=0,
                                          idle_timeout=PATIENCE, server_name="slskdn")
        configuration.certificate, configuration.private_key = key.certificate, key.private
        own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        own.bind((f"127.0.0.{2 + n % ADDRESSES}", 0))
        transport, peer = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Protocol(QuicConnection(configuration=configuration)), sock=own)
        try:
            peer.connect(("127.0.0.1", self.port))
            async with asyncio.timeout(PATIENCE):
                await peer.wait_connected()
                await peer.greet()
        except TimeoutError:
            return "no answer"
        except ConnectionError:
            return "refused"
        else:
            self.inside += 1
            self.answer(n)
            while not peer.ended and not self.leave.is_set():
                # Or the node would ask whether it is still there.
                peer.say(frame(PING))
                try:
                    async with asyncio.timeout(20):
                        while not peer.ended and not self.leave.is_set():
                            await peer.news.wait()
                            peer.news.clear()
                except TimeoutError:
                    pass
            self.inside -= 1
            return "closed" if peer.ended else "stayed"
        finally:
            if not peer.ended:
                peer.close()
            transport.close()

    async def stranger(self, n):
        while not self.leave.is_set():
            self.ends[await self.call(n)] += 1
            self.answer(n)
            await asyncio.sleep(random.uniform(1, 5))

    async def run(self):
        strangers = [asyncio.create_task(self.stranger(n)) for n in range(self.count)]
        await self.all_answered.wait()
        print(json.dumps({"answered": len(self.answered), "inside": self.inside, **self.ends}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        print(json.dumps({"inside": self.inside, **self.ends}), flush=True)
        for task in strangers:
            task.cancel()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def main():
        await Crowd(*map(int, sys.argv[1:])).run()
    asyncio.run(main())
