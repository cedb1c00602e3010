"""A download that hangs, helped by a peer that told nothing of itself: it answers when it is asked for offers."""
import asyncio
import subprocess
import uuid

import pytest

from node import content_hash, until
from stranger import CACHE_JOB, Key, frame, option, source, stranger, take, varint
from test_gossip import kinds, known
from world import World

RECORDING = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


@pytest.fixture
def song(tmp_path):
    """Of one piece: its hash is its list."""
    path = tmp_path / "song.flac"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "anoisesrc=d=5:a=0.01:r=8000", "-ac", "1", "-sample_fmt",
                    "s16", path], check=True)
    assert path.stat().st_size <= 65_536
    return path


async def offers(peer, data, content):
    """Answers each request for offers with one copy; the answer is how often it was asked."""
    track = (varint(1) + option(RECORDING.int, varint) + 2 * bytes.fromhex(content) + varint(len(data)) + bytes(32) + b"\1"
             + varint(0) + varint(900))
    answered = 0
    while True:
        asked = [body for kind, body in kinds(peer) if kind == CACHE_JOB]
        for body in asked[answered:]:
            job, _ = take(body)
            # An offer of no release: nothing is asked for, and one track is there.
            peer.say(frame(CACHE_JOB, varint(job) + b"\1\0" + varint(0) + varint(1) + track + varint(600) * 4 + b"\1"))
        answered = len(asked)
        await asyncio.sleep(0.05)


def test_who_offers_it_when_asked_helps(node, world, song):
    data, content = song.read_bytes(), content_hash(song)
    box = node("box", **{
        "soulseek.address": "127.0.0.1", "soulseek.port": world.port, "soulseek.username": "box", "soulseek.password": "pw",
        "transfers.rescue_mode.stall_timeout_seconds": 3, "transfers.rescue_mode.sample_interval_seconds": 1,
        "transfers.rescue_mode.min_duration_seconds": 4,
        "transfers.rescue_mode.guardrails.require_seen_on_soulseek": "false"}).start()
    until("it is logged in", lambda: box.get("/api/v0/server")["isLoggedIn"])

    def rescue():
        file = {"path": "music\\song.flac", "size": len(data), "recording": str(RECORDING)}
        ident = box.post("/api/downloads", {"user": "gone", "files": [file]}).json()["accepted"][0]["id"]
        return until("a copy is there", lambda: (
            row := box.get(f"/api/downloads/{ident}"))["rescue"] and row["rescue"]["state"] == "Completed" and row)

    async def talk():
        async with stranger(box.settings["mesh.port"], Key()) as peer:
            await peer.greet(features="mesh mbid swimming")
            serving = [asyncio.create_task(source(peer, data, "nothing")), asyncio.create_task(offers(peer, data, content))]
            try:
                return await asyncio.to_thread(rescue), kinds(peer)
            finally:
                for task in serving:
                    task.cancel()
    row, heard = asyncio.run(talk())
    assert row["rescue"]["content_hash"] == content and row["rescue"]["manner"] == "whole_variant", row
    assert content_hash(row["local_path"]) == content
    assert any(kind == CACHE_JOB for kind, _ in heard)
    assert known(box, RECORDING) == {}, "no list of anybody's has it"
