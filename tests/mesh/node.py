"""Nodes of the mesh: daemons of their own on loopback, driven over HTTP. See ../ops/box.py."""
import os
import signal
import sys
import wave
from pathlib import Path

from blake3 import blake3

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "ops"))

from box import Box, free_port, until  # noqa: E402

MIB = 1 << 20


def noise(path, mib=20):
    """A WAV of noise, so that no two pieces are alike: 96 kHz, 24 bit, stereo. Answers with its content hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(3)
        out.setframerate(96_000)
        # Quiet, so that nothing clips: the high byte of each sample stays near zero. Not a multiple of the piece.
        out.writeframes(os.urandom(mib * MIB // 6 * 6 - 600))
    return content_hash(path)


def content_hash(path):
    return blake3(Path(path).read_bytes()).hexdigest()


class Node(Box):
    """A daemon with the mesh on."""

    def __init__(self, tmp, name, share=None, **settings):
        arguments = ("--music", share) if share else ()
        super().__init__(tmp, name, *arguments, **{"mesh.enabled": "true", "mesh.address": "127.0.0.1",
                                                   "mesh.port": free_udp_port(), **settings})
        self.share = share

    @property
    def id(self):
        return self.get("/api/mesh")["id"]

    @property
    def named(self):
        """As others name it in their configuration."""
        return f"{self.id}@127.0.0.1:{self.settings['mesh.port']}"

    def measure(self, files=1):
        """Lets the Doctor look at the share, and waits until the share index has it too."""
        scan = self.post("/api/library/health/scans", {"library_path": str(self.share), "offline": True}).json()["scan_id"]
        path = f"/api/library/health/scans/{scan}"
        # Decoding takes what a busy machine has left.
        until(f"{self.name} has measured its files", lambda: self.get(path)["status"] not in ("running", "queued"), 1800)
        assert self.get(path)["status"] == "completed", self.get(path)
        until(f"{self.name} shares its files", lambda: self.get("/api/status")["shares"]["files"] == files)
        return self

    def fetch(self, content, size, name):
        self.post("/api/mesh/fetches", {"content_hash": content, "size": size, "name": name})

    def fetched(self, content):
        return self.get(f"/api/mesh/fetches/{content}")

    def peers(self):
        return {peer["id"]: peer for peer in self.get("/api/mesh/peers")}

    def connected(self):
        return {peer["id"] for peer in self.get("/api/mesh/peers") if peer["connected"]}

    def kill(self):
        self.process.stop(signal.SIGKILL)


def free_udp_port():
    import socket
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


__all__ = ["MIB", "Node", "content_hash", "free_port", "free_udp_port", "noise", "until"]
