"""Jobs: begun, imported, watched, paused, resumed, exported and called off, with and without scripts, wide and narrow."""
import pytest

from browser import NARROW, WIDE
from conftest import Box, screenshots
from release import ALBUM, ARTIST, RELEASE, TRACKS, Catalogs, release
from world import until

MANIFEST = """\
manifest_version: "1.0"
job_id: "{name}"
job_type: mb_release
spec:
  mb_release_id: "6a76904c-0caf-34e1-8cc2-7d95e86a3824"
  title: "{name} <b>Antics</b>"
  artist: "An Artist of a Rather Long Name"
  target_dir: "An Artist/Antics"
  tracks:
    - {{position: 1, title: "<script>document.title='pwned'</script>", mb_recording_id: "00000000-0000-4000-8000-000000000001"}}
    - {{position: 2, title: "A title as long as titles of tracks sometimes are, and then some more of it to be sure", mb_recording_id: "00000000-0000-4000-8000-000000000002", duration_ms: 180000}}
status:
  state: paused
"""


def test_a_job_from_import_to_cancel(page, box):
    name = "with-scripts" if page.scripts else "without-scripts"
    page.open(f"{box.url}/search")
    page.click("Jobs")
    page.says("Jobs", "Begin job", "Import Job Manifest")
    page.fill("The text of a manifest (YAML)", MANIFEST.format(name=name).replace("mb_release\n", "discography\n"))
    page.click("Import Job Manifest", within="//form")
    page.says("That did not work", "Line 3", "discography")
    page.open(f"{box.url}/jobs")
    page.fill("The text of a manifest (YAML)", MANIFEST.format(name=name))
    page.click("Import Job Manifest", within="//form")
    page.says("The job is taken up.", f"{name} <b>Antics</b>", "paused", "0 of 2", "<script>", "wanted")
    assert "pwned" not in page.title
    job = page.address.split("?")[0].rsplit("/", 1)[1]
    kept = screenshots()
    for width in (WIDE, NARROW):
        page.size(width)
        assert page.spills() == [], width
        if kept:
            page.screenshot(kept / f"job-{width}{'' if page.scripts else '-plain'}.png")
    page.size(WIDE)
    page.click("Resume")
    page.says("The job goes on.")
    page.until("it runs", lambda: "running" in page.text)
    page.click("Pause")
    page.says("The job is paused.")
    manifest = box.session.get(f"{box.url}/jobs/{job}/manifest", timeout=60)
    assert "attachment" in manifest.headers["Content-Disposition"] and f'job_id: "{job}"' in manifest.text
    page.click("Cancel")
    page.says("The job is called off.", "cancelled")
    page.click("All jobs")
    for width in (WIDE, NARROW):
        page.size(width)
        assert page.spills() == [], width
        if kept:
            page.screenshot(kept / f"jobs-{width}{'' if page.scripts else '-plain'}.png")
    page.size(WIDE)
    assert "cancelled" in page.row(name)
    # The search box understands the name of a release; without the network it says why it cannot begin.
    page.open(f"{box.url}/search")
    page.fill("Words", "https://www.discogs.com/master/5427-x", within="//form[@action='/search']")
    page.click("Search", within="//form[@action='/search']")
    page.says("That did not work", "address of a master, not of a release")


@pytest.fixture(scope="module")
def known(world):
    """A box whose MusicBrainz knows one release, in a network where nobody has it."""
    catalogs = Catalogs(release())
    box = Box(world, "collector", catalog__musicbrainz__base_url=f"{catalogs.url}/mb", catalog__acoustid__base_url=catalogs.url)
    until("the box is logged in", box.logged_in)
    yield box
    catalogs.server.shutdown()


def begun(page, box):
    """The job that the page shows, from the API; it is called off, so that there is room for others."""
    page.says("The job has begun.", ALBUM, ARTIST, RELEASE, "0 of 4", *(title for title, *_ in TRACKS.values()))
    job = box.get(f"/api/jobs/{page.address.split('?')[0].rsplit('/', 1)[1]}")
    assert len(job["tracks"]) == 4 and job["status"] in ("pending", "running"), job
    box.call("POST", f"/api/jobs/{job['id']}/cancel").raise_for_status()
    return job


@pytest.mark.parametrize("name", [RELEASE, f"https://musicbrainz.org/release/{RELEASE}", "discogs:1",
                                  "https://www.discogs.com/release/1-x"])
def test_the_search_box_takes_the_name_of_a_release(page, known, name):
    page.open(f"{known.url}/search")
    page.says("The ID or address of a release at MusicBrainz or Discogs", "discogs:249504")
    page.fill("Words", name, within="//form[@action='/search']")
    page.click("Search", within="//form[@action='/search']")
    job = begun(page, known)
    page.open(f"{known.url}/search")
    assert name not in page.text, "nothing was searched for by that name"
    # The page of jobs has a box for it, too.
    page.open(f"{known.url}/jobs")
    page.says("discogs:249504")
    page.fill("Release", name)
    page.click("Begin job")
    assert begun(page, known)["id"] != job["id"]


def test_a_job_is_exported_and_imported_again_by_clicks(page, known, tmp_path):
    page.open(f"{known.url}/jobs")
    page.fill("Release", RELEASE)
    page.click("Begin job")
    page.says("The job has begun.")
    page.click("Pause")
    page.says("The job is paused.")
    page.downloads_to(tmp_path)
    page.click("Export Job")
    job = page.address.split("?")[0].rsplit("/", 1)[1]
    arrived = page.until("the file arrives", lambda: [file for file in tmp_path.iterdir() if file.suffix == ".yaml"], again=False)
    assert [file.name for file in tmp_path.iterdir()] == [arrived[0].name] and job in arrived[0].name, arrived
    manifest = arrived[0].read_text()
    assert manifest == known.call("POST", f"/api/jobs/{job}/export").text and f'job_id: "{job}"' in manifest
    page.click("Cancel")
    page.says("The job is called off.")

    page.open(f"{known.url}/jobs")
    page.fill("The text of a manifest (YAML)", manifest)
    page.click("Import Job Manifest", within="//form")
    page.says("The job is taken up.", "paused", "0 of 4", "Imported from", job, ALBUM, ARTIST, RELEASE)
    again = page.address.split("?")[0].rsplit("/", 1)[1]
    old, new = (known.get(f"/api/jobs/{ident}") for ident in (job, again))
    assert again != job and new["origin_id"] == job

    def wanted(job):
        return job["spec"], [(t["medium"], t["position"], t["mb_recording_id"]) for t in job["tracks"]]
    assert wanted(new) == wanted(old)
    page.click("Cancel")
    page.says("The job is called off.")
