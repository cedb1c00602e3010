"""Whom a job asks first: what users did for jobs before, and what is known of the very files that they offer."""
import shutil
import subprocess

from test_jobs import ALL, files_from, house, music, placed, samples, told  # noqa: F401
from release import compose, tags, tracks
from world import until

HEALTH = "/api/library/health"
ENDED = "Completed, Succeeded"


def all_answer(box, *users):
    """A search reached everybody once: aioslsk now and then answers nothing while it connects both ways."""
    box.search("skinny fists", lambda found: {response["username"] for response in found} >= set(users))


def test_who_gave_a_wrong_take_is_asked_last_by_the_next_job(house, music):  # noqa: F811
    named = {(m, p): (title, ms, recording) for m, p, title, ms, recording in tracks(house.found)}
    for place, (_, _, recording) in named.items():
        house.catalogs.knows(recording, music[place])
    title, ms, _ = named[1, 1]

    def lie(share):
        house.album(share, ALL)
        live = compose(next(share.rglob("CD1")) / "01 - Storm.flac", 77, ms, title, 1)
        house.catalogs.knows("11111111-2222-4333-8444-555555555555", live)

    # Of two who offer the same, the one of the first name is asked.
    house.peer("aioslsk", "a liar", lie)
    house.peer("aioslsk", "honest", lambda share: house.album(share, [(1, 1), (2, 1), (2, 2)]))
    box = house.box()

    def job_for(*places):
        return house.over(house.start(tracks=[named[place][2] for place in places]))
    # Only the first has both.
    all_answer(box, "a liar", "honest")
    job, got = job_for((1, 1), (1, 2))
    assert job["status"] == "completed", job
    assert files_from(house, "a liar") == {"01 - Storm.flac": ENDED, "02 - Static.flac": ENDED}
    assert files_from(house, "honest") == {"01 - Storm.flac": ENDED}
    assert "1-1 Storm is pending: AcoustID knows it as another recording" in told(house, job)
    assert samples(placed(house, got[1, 1])) == samples(music[1, 1])

    # Both offer the same now; and what was learned outlives a restart.
    box.process.stop()
    box.start()
    all_answer(box, "a liar", "honest")
    job, got = job_for((2, 1), (2, 2))
    assert job["status"] == "completed", job
    assert "asks honest for 2 files" in told(house, job) and "a liar" not in told(house, job), told(house, job)
    for place in [(2, 1), (2, 2)]:
        assert samples(placed(house, got[place])) == samples(music[place])


def test_the_copy_that_is_known_as_the_one_to_have_is_asked_for_first(house, music, tmp_path):  # noqa: F811
    recordings = {(m, p): recording for m, p, _, _, recording in tracks(house.found)}
    for place, recording in recordings.items():
        house.catalogs.knows(recording, music[place])

    def known(share, flags):
        """The album as FLAC of this compression, each file tagged."""
        house.album(share, ALL)
        for file in share.rglob("*.flac"):
            place = int(file.parent.name[-1]), int(file.name[:2])
            again = tmp_path / "again.flac"
            subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", "-i", str(file), *tags(place), *flags, str(again)], check=True)
            shutil.move(again, file)

    # Both are complete and lossless. Of two who offer the same, the one of the first name is asked.
    house.peer("aioslsk", "another", lambda share: known(share, ["-compression_level", "0"]))
    house.peer("aioslsk", "canonical", lambda share: known(share, ["-compression_level", "8"]))
    library = house.world.tmp / "library"
    shutil.copytree(house.world.tmp / "share-canonical", library)
    box = house.box(**{"library_health.auto_scan.library_paths": library})
    scan = box.call("POST", f"{HEALTH}/scans", json={"library_path": str(library)}).json()["scan_id"]
    until("the scan ends", lambda: box.get(f"{HEALTH}/scans/{scan}")["status"] == "completed", 600)

    all_answer(box, "another", "canonical")

    def job_for(*places, **constraints):
        job, _ = house.over(house.start(tracks=[recordings[place] for place in places], constraints=constraints))
        assert job["status"] == "completed", job
        return told(house, job)
    # Who does not want it so takes the first that come;
    trace = job_for((1, 1), prefer_canonical=False)
    assert "asks another for 1 files" in trace and "canonical" not in trace, trace
    # else it decides, though the other has been good to us.
    trace = job_for((1, 2), (2, 1), (2, 2))
    assert "asks canonical for 3 files" in trace and "another" not in trace, trace
    assert files_from(house, "canonical") == dict.fromkeys(["02 - Static.flac", "01 - Sleep.flac", "02 - Antennas to Heaven.flac"], ENDED)
