"""Downloads that hang and of which nobody said what they are: the bytes that came from a Nicotine+ have to tell it."""
import shutil
import signal

import pytest

from release import Catalogs, ffmpeg
from test_rescue import RECORDING, MeshNode, ask, house, rescued, silent  # noqa: F401
from world import until

SECONDS = 40
# So much of a file has to be there before its sound counts, and a little more.
HEARD = 5 * (1 << 20) + 200_000
LOSSY = "tagged.opus"


def tune(path):
    """About 9 MiB of chords under noise of 24 bits, without any tag."""
    chords = "+".join(f"0.11*sin(2*PI*t*180*(1+floor(mod(t*{1.3 + 0.4 * k}+{k},{5 + k}))/{3 + k}))" for k in range(4))
    ffmpeg("-f", "lavfi", "-i", f"aevalsrc='{chords}+0.1*(random(0)-0.5)|{chords}+0.1*(mod(random(0)*7919,1)-0.5)':s=44100:d={SECONDS}",
           "-sample_fmt", "s32", "-bits_per_raw_sample", "24", "-fflags", "+bitexact", path)


def without_md5(path):
    """Its header says nothing of its samples, as with FLACs made in one go: peers' lists name it by what all of it is."""
    data = bytearray(path.read_bytes())
    assert data[:4] == b"fLaC" and data[4] & 0x7f == 0, "STREAMINFO comes first"
    data[26:42] = bytes(16)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def takes(tmp_path_factory):
    """One recording: a FLAC that its header names, one that its sound alone does, one that its tags do, and a lossy copy
    with tags, by which their holder knows them all. No two of one size."""
    folder = tmp_path_factory.mktemp("takes")
    said = ["-metadata", "title=Chords", "-metadata", "artist=Somebody", "-metadata", f"MUSICBRAINZ_TRACKID={RECORDING}"]
    tune(folder / "hash.flac")
    ffmpeg("-i", folder / "hash.flac", "-c", "copy", "-metadata", "comment=heard", folder / "sound.flac")
    ffmpeg("-i", folder / "hash.flac", "-c", "copy", *said, folder / "tags.flac")
    for name in ("sound", "tags"):
        without_md5(folder / f"{name}.flac")
    ffmpeg("-i", folder / "hash.flac", "-b:a", "160k", *said, folder / LOSSY)
    assert len({path.stat().st_size for path in folder.iterdir()}) == 4
    assert (folder / "hash.flac").stat().st_size > HEARD + 2_000_000
    return folder


@pytest.fixture(scope="module")
def holders(tmp_path_factory, takes):
    """A mesh peer who has all of them, and no word of what was asked for."""
    tmp = tmp_path_factory.mktemp("keeper")
    share = tmp / "music"
    share.mkdir()
    for name in ("tags.flac", LOSSY):
        shutil.copy(takes / name, share / name)
    node = MeshNode(tmp, "keeper", share).start().measure(2)
    # What has no tags is laid beside what is known by then.
    for name in ("hash.flac", "sound.flac"):
        shutil.copy(takes / name, share / name)
    node.measure(4)
    known = node.get(f"/api/audio/canonical/{RECORDING}")
    assert known["variant_count"] == 4, known
    yield takes / "hash.flac", [node]
    node.stop()


@pytest.fixture
def hanging(house, takes):  # noqa: F811
    """`hanging(take, own=…, setting=value)`: a download of this take, once so much of it came that it hangs; it was asked for
    by its path alone. `own` is what the box has in its library."""
    begun = []

    def build(take, own=None, **settings):
        world = house("--upload-limit-kib", "384", song=takes / f"{take}.flac", **settings)
        begun.append(world)
        if own:
            library = world.box.share / "Library"
            library.mkdir()
            shutil.copy(takes / own, library / own)
            scan = world.box.call("POST", "/api/library/health/scans", json={"library_path": str(library), "offline": True})
            path = f"/api/library/health/scans/{scan.json()['scan_id']}"
            until("the box knows its copy", lambda: world.box.get(path)["status"] == "completed", 600)
        until("the box was told of the keeper's copies", lambda: told(world.box))
        ident = ask(world, None)
        until("enough came", lambda: world.box.get(f"/api/downloads/{ident}")["bytes_done"] > HEARD)
        silent(world)
        return world, ident
    yield build
    for world in begun:
        silent(world, signal.SIGCONT)


def told(box):
    answer = box.call("GET", f"/api/audio/canonical/{RECORDING}")
    if answer.status_code != 200 or answer.json()["peers"] != 1 or answer.json()["variant_count"] != 4:
        return False
    # Lists of hashes go their own way.
    return all(box.get(f"/api/mesh/hashes/{variant['flac_key']}") for variant in answer.json()["variants"])


def found_out(world, ident):
    """By what, as the trace tells the owner."""
    row = rescued(world, ident, "Stalled")
    assert row["rescue"]["recording_id"] == RECORDING and row["rescue"]["overlay_bytes"] > 0, row
    events = world.box.get(f"/api/jobs/{ident}/trace?limit=1000")["events"]
    words = "which recording it is was found out by the "
    [how] = [event["message"].removeprefix(words) for event in events if event["message"].startswith(words)]
    return how


def test_peers_name_the_file_of_which_this_is_the_beginning(hanging):
    """A FLAC says in its header which samples it has: that, its size and its first bytes are those of a peer's hash list."""
    assert found_out(*hanging("hash")) == "hash of the partial file"


def test_its_tags_say_what_it_is(hanging):
    assert found_out(*hanging("tags")) == "tags of the partial file"


def test_it_sounds_like_a_copy_in_the_library(hanging):
    """Not by chance of its length: the beginning is compared, and what the whole plays for."""
    assert found_out(*hanging("sound", own=LOSSY)) == "fingerprint of the partial file"


def test_acoustid_knows_how_it_sounds(hanging, takes):
    catalogs = Catalogs({})
    catalogs.has(RECORDING, "Chords", "Somebody", SECONDS * 1000)
    catalogs.knows(RECORDING, takes / LOSSY)
    how = found_out(*hanging("sound", **{"catalog.musicbrainz.base_url": f"{catalogs.url}/mb",
                                         "catalog.acoustid.base_url": catalogs.url, "catalog.acoustid.key": "k"}))
    assert how == "fingerprint of the partial file, as AcoustID knows it"
    assert "lookup" in catalogs.asked, catalogs.asked
