"""What was fetched as a recording must be one: it is decoded, and compared with the copies that are here."""
import json
import subprocess

import pytest

from node import content_hash, until
from test_gossip import RECORDING, ffmpeg, known, knows, sharer  # noqa: F401
from world import BINARY

SECONDS = 20
PATH = f"/api/mesh/recordings/{RECORDING}/fetch"


@pytest.fixture(scope="session")
def copies(tmp_path_factory):
    """A recording as FLAC and as Opus made of it, and another one as FLAC; all are tagged as the first."""
    folder = tmp_path_factory.mktemp("sounds")
    tags = ["-metadata", f"MUSICBRAINZ_TRACKID={RECORDING}", "-metadata", "title=As recorded"]
    # Tones that change four times a second, and one that rises.
    melody = "0.4*sin(2*PI*t*(220+55*mod(floor(4*t)*5,12)))+0.2*sin(2*PI*t*(330+41*mod(floor(4*t)*3,17)))"
    for name, sound in (("clean", melody), ("other", "0.5*sin(2*PI*t*(300+30*t))")):
        source = f"aevalsrc='{sound}':d={SECONDS}:s=44100"
        ffmpeg("-f", "lavfi", "-i", source, "-ac", "2", "-sample_fmt", "s16", *tags, folder / f"{name}.flac")
    ffmpeg("-i", folder / "clean.flac", "-b:a", "96k", *tags, folder / "copy.opus")
    return {name: folder / name for name in ("clean.flac", "copy.opus", "other.flac")}


def ended(node, content):
    return until("it is over", lambda: (f := node.fetched(content))["state"] != "running" and f)


def notes(node, content):
    """Of one that is over; its last line is written once that is on record."""
    def told():
        events = node.get(f"/api/mesh/fetches/{content}/trace?limit=1000")["events"]
        return events if any(event["type"] == "JobComplete" for event in events) else None
    events = until("all of it is told", told)
    return [event["message"] for event in events if event["type"] in ("Note", "JobComplete", "TrackComplete")]


def test_another_recording_is_refused_and_nobody_is_believed_who_tells_of_it(sharer, copies):  # noqa: F811
    right, wrong = content_hash(copies["clean.flac"]), content_hash(copies["other.flac"])
    liar = sharer("liar", "other.flac")
    fetcher = sharer("fetcher", "copy.opus", **{"mesh.peers": liar.named})
    knows(fetcher, "two copies", lambda k: k["peers"] == 1 and k["variant_count"] == 2)
    assert fetcher.post(PATH, {}).json()["content_hash"] == wrong
    failed = ended(fetcher, wrong)
    assert failed["state"] == "failed" and "it is another recording" in failed["error"], failed
    assert failed["local_path"] is None and failed["ended_at"] is not None
    assert [source["state"] for source in failed["sources"]] == ["aborted"], "never again for this file"
    home = fetcher.home
    assert not list((home / "downloads").rglob("*.*")) and not list((home / "incomplete").glob("*.mesh"))
    assert notes(fetcher, wrong)[-1].startswith("the job failed: it is another recording"), notes(fetcher, wrong)
    # Its bytes were right: the peer is no worse a source than before, only its word is nothing.
    assert failed["sources"][0]["bad_pieces"] == 0 and failed["sources"][0]["bytes"] == failed["size"]
    knows(fetcher, "that nobody has another copy", lambda k: k["peers"] == 0 and k["variant_count"] == 1)
    refused = fetcher.call("POST", PATH)
    assert refused.status_code == 400 and "no connected peer has a copy" in refused.text, refused.text
    # It stays so through a kill.
    fetcher.kill()
    fetcher.start()
    until("they are connected", lambda: fetcher.connected() == {liar.id})
    assert fetcher.fetched(wrong)["state"] == "failed" and known(fetcher)["variant_count"] == 1
    # What is the recording is taken, and it is told how that is known.
    honest = sharer("honest", "clean.flac", **{"mesh.peers": fetcher.named})
    knows(fetcher, "the honest copy", lambda k: k["peers"] == 1 and k["variant_count"] == 2)
    assert fetcher.post(PATH, {}).json()["content_hash"] == right
    done = ended(fetcher, right)
    assert done["state"] == "done" and content_hash(done["local_path"]) == right, done
    assert any("it is the recording that was wanted" in note for note in notes(fetcher, right)), notes(fetcher, right)
    assert honest.id in [source["peer"] for source in done["sources"]]
    # The owner may want that very file all the same, as what it is: a file.
    fetcher.fetch(wrong, copies["other.flac"].stat().st_size, "other.flac")
    assert ended(fetcher, wrong)["state"] == "done"


def test_what_nothing_is_known_of_need_only_be_audio(sharer, node, copies):  # noqa: F811
    other = content_hash(copies["other.flac"])
    one = sharer("one", "other.flac")
    fetcher = node("fetcher", **{"mesh.peers": one.named}).start()
    wanted = {"content_hash": other, "size": copies["other.flac"].stat().st_size, "mb_recording_id": str(RECORDING)}
    assert fetcher.call("POST", "/api/mesh/fetches", json={**wanted, "mb_recording_id": "none"}).status_code == 400
    fetcher.post("/api/mesh/fetches", wanted)
    assert ended(fetcher, other)["state"] == "done"
    assert any("no copy of the recording is here" in note for note in notes(fetcher, other)), notes(fetcher, other)


def test_the_copies_are_what_these_tests_take_them_for(copies):
    words = {}
    for name, path in copies.items():
        ran = subprocess.run([BINARY, "analyze", "--fingerprint", path], capture_output=True, text=True, check=True)
        words[name] = json.loads(ran.stdout)["fingerprint"]

    def differ(a, b):
        pairs = list(zip(words[a], words[b]))
        return sum((x ^ y).bit_count() for x, y in pairs) / 32 / len(pairs)
    assert differ("clean.flac", "copy.opus") < 0.1 and differ("other.flac", "copy.opus") > 0.35
