"""Issues fixed from their page and from the list, beside some that nobody has and that cannot be fixed, and undone."""
import shutil

import pytest

from browser import NARROW, WIDE
from conftest import Box, screenshots
from release import Catalogs, Library, compose, release, tracks
from world import Peer, free_port, sha256, until

HEALTH = "/api/library/health"


@pytest.fixture(scope="module")
def scene(world, tmp_path_factory):
    """A box with a library of a transcode that a user has better, what nobody has better, and a ruin."""
    found = release()
    originals = tmp_path_factory.mktemp("originals")
    music = {(m, p): compose(originals / f"{m}-{p}.flac", 10 * m + p, ms, title, p)
             for m, p, title, ms, _ in tracks(found) if (m, p) != (2, 2)}
    catalogs = Catalogs(found)
    for m, p, _, _, recording in tracks(found):
        if (m, p) in music:
            catalogs.knows(recording, music[m, p])
    share = world.tmp / "share-giver" / "Godspeed You! Black Emperor" / "Lift Your Skinny Fists" / "CD1"
    share.mkdir(parents=True)
    shutil.copy(music[1, 1], share / "01 - Storm.flac")
    Peer(world, "aioslsk", "giver", free_port(), files=False)

    class Scene:
        library = Library(world.tmp / "repairs", music)
        storm, good = library.files[1, 1], sha256(music[1, 1])
        ruin = library.album / "CD1" / "99 <b>ruin.flac"

        def __init__(self):
            self.ruin.write_bytes(b"fLaC" + bytes(5000))
            self.box = Box(world, "mender", library_health__auto_scan__library_paths=self.library.root,
                           catalog__musicbrainz__base_url=f"{catalogs.url}/mb", catalog__acoustid__base_url=catalogs.url,
                           catalog__acoustid__key="k", jobs__search_rounds=1)
            until("the box is logged in", self.box.logged_in)
            ident = self.box.call("POST", f"{HEALTH}/scans", json={"library_path": str(self.library.root)}).json()["scan_id"]
            # A busy machine makes the daemon rest.
            until("the scan ends", lambda: self.box.get(f"{HEALTH}/scans/{ident}")["status"] == "completed", 600)

        def issue(self, name, kind="SuspectedTranscode"):
            rows = self.box.get(f"{HEALTH}/issues?limit=100&types={kind}&statuses=Detected,Acknowledged,Failed,Fixing,Resolved")
            return next(row for row in rows["issues"] if name in row["file_path"])

        def page_of(self, issue):
            return f"{self.box.url}/library/issues/{issue['issue_id']}"

        def as_it_was(self):
            """What an earlier test replaced is undone."""
            storm = self.issue("Storm")
            if storm["can_undo"]:
                self.box.call("POST", f"{HEALTH}/issues/{storm['issue_id']}/undo").raise_for_status()
            until("Storm is to be fixed", lambda: self.issue("Storm")["status"] in ("Detected", "Acknowledged", "Failed"))
            assert sha256(self.storm) == self.library.before[1, 1]
            return self.issue("Storm")
    yield Scene()
    catalogs.server.shutdown()


def look(page, name):
    """Nothing sticks out on a telephone and in a window; keeps pictures if they are wanted."""
    for width in (NARROW, WIDE):
        page.size(width)
        assert page.spills() == [], (name, width)
        if kept := screenshots():
            page.screenshot(kept / f"{name}-{width}{'' if page.scripts else '-plain'}.png")
            if page.scripts:
                page.size(width, dark=True)
                page.screenshot(kept / f"{name}-{width}-dark.png")
    page.size(WIDE)


def tick(page, name):
    page._act(f"//input[@type='checkbox' and contains(@aria-label, '{name}')]", lambda box: box.click())


def test_an_issue_is_fixed_from_its_page_and_undone(page, scene):
    issue = scene.as_it_was()
    page.open(scene.page_of(issue))
    page.click("Fix via multi-swarm")
    page.says("Fix this issue?", "01 Storm.flac", "fetches a verified lossless copy", "Undo brings it back")
    look(page, "repair-asked")
    page.click("Leave it as it is")
    page.says("Suspected transcode", "The frame grid")
    assert scene.issue("Storm")["status"] in ("Detected", "Acknowledged", "Failed"), "leaving begins nothing"
    page.click("Fix via multi-swarm")
    page.click("Fix via multi-swarm")
    page.says("The repair has begun.")
    page.open(scene.page_of(issue))
    # It may be quick; but it says where it stands, and by itself it comes to its end.
    assert page.has("//h2[.='Repair']") and page.has("//dd/a[contains(@href, '/jobs/')]")
    look(page, "repair-fixing")
    page.until("the file was replaced", lambda: "done: the file was replaced" in page.text, 240)
    page.open(scene.page_of(issue))
    page.says("resolved by this program", "Old file", "New file", "The old file is kept as", "01 Storm.flac", ".bak")
    assert not page.has("//button[.='Fix via multi-swarm']")
    assert sha256(scene.storm) == scene.good
    look(page, "repair-done")
    page.driver.find_element("xpath", "//dd/a[contains(@href, '/jobs/')]").click()
    page.says("Storm", "completed", "Repairs\n01 Storm.flac")
    look(page, "repair-job")

    page.open(scene.page_of(issue))
    page.click("Undo")
    page.says("Undo this repair?", "01 Storm.flac is put back", "the issue is open again")
    look(page, "repair-undo")
    assert sha256(scene.storm) == scene.good, "asking changes nothing"
    page.click("Undo the repair")
    page.says("Undone: the old file lies in its place again.", "undone")
    assert sha256(scene.storm) == scene.library.before[1, 1]
    assert page.has("//button[.='Fix via multi-swarm']") and not page.has("//button[.='Undo']")
    look(page, "repair-undone")


def test_what_the_disk_refuses_is_tried_again_when_the_owner_says_so(page, scene):
    issue = scene.as_it_was()
    # Nothing can be written under that name.
    blocked = scene.storm.with_name(f".{scene.storm.name}.slskdn-new")
    blocked.mkdir()
    scene.box.call("POST", f"{HEALTH}/issues/{issue['issue_id']}/fix").raise_for_status()
    page.open(scene.page_of(issue))
    page.until("it is refused", lambda: "the copy is there and is being put in its place" in page.text, 240)

    def rests():
        page.open(scene.page_of(issue))
        page.click("Try again now")
        page.until("an answer", lambda: "It will be tried again." in page.text or "it is being mended" in page.text, again=False)
        return "It will be tried again." in page.text
    # Just then an attempt may be under way.
    page.until("it waits for the next attempt", rests, again=False)
    look(page, "repair-refused")
    assert sha256(scene.storm) == scene.library.before[1, 1]
    blocked.rmdir()
    page.open(scene.page_of(issue))
    page.until("the file was replaced", lambda: "done: the file was replaced" in page.text, 240)
    assert sha256(scene.storm) == scene.good and not page.has("//button[.='Try again now']")


def test_some_of_the_list_are_fixed_at_once(page, scene):
    scene.as_it_was()
    page.open(f"{scene.box.url}/library/issues")
    page.click("Fix chosen")
    page.says("No issue was chosen.")
    # The filter stays what it was, and the boxes are those of what it shows.
    page.open(f"{scene.box.url}/library/issues")
    page.fill("Type", "CorruptedFile")
    page.click("Filter")
    page.click("Choose all on this page")
    page.says("2 issues.")
    boxes = page.driver.find_elements("xpath", "//input[@type='checkbox']")
    assert len(boxes) == 2 and all(box.is_selected() for box in boxes)
    assert page.value("Type") == "CorruptedFile"

    page.open(f"{scene.box.url}/library/issues")
    assert not page.driver.find_elements("xpath", "//tr[contains(., 'Several copies')]//input"), "no box where nothing can be done"
    for name in ("01 Storm.flac, Suspected", "02 Static.flac", "ruin"):
        tick(page, name)
    if page.scripts:
        # A page that is kept current leaves alone what somebody ticks.
        page.driver.execute_script("document.activeElement.blur()")
        scene.box.call("POST", f"{HEALTH}/scans", json={"library_path": str(scene.library.root)}).raise_for_status()
        until("the scan ends", lambda: all(scan["status"] != "running" for scan in scene.box.get(f"{HEALTH}/scans")), 600)
        page.until("the page was left alone", lambda: len(
            [box for box in page.driver.find_elements("xpath", "//input[@type='checkbox']") if box.is_selected()]) == 3)
    look(page, "repair-list")
    page.click("Fix chosen")
    page.says("Fix 3 issues?", "01 Storm.flac", "02 Static.flac", "<b>ruin.flac")
    look(page, "repair-list-asked")
    page.click("Fix via multi-swarm")
    page.says("2 repairs begun by 2 jobs, 1 refused.", "Nobody knows which recording it is", "<b>ruin.flac")
    look(page, "repair-list-begun")
    page.open(f"{scene.box.url}/library/issues?status=every")
    page.until("one is fixed, one is not", lambda: "Resolved" in page.row("01 Storm.flac")
               and "Failed" in page.row("02 Static.flac"), 400)
    assert sha256(scene.storm) == scene.good
    look(page, "repair-list-ended")
    page.open(scene.page_of(scene.issue("Static", "CorruptedFile")))
    page.says("open: the last repair failed", "failed: ", "Fix via multi-swarm")
    look(page, "repair-failed")
    assert sha256(scene.library.files[1, 2]) == scene.library.before[1, 2]
