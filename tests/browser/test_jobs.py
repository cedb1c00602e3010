"""Jobs: imported, watched, paused, resumed, exported and called off, with and without scripts, wide and narrow."""
from browser import NARROW, WIDE
from conftest import screenshots

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
