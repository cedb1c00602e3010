"""Every page with real things on it, wide and narrow: nothing sticks out, nothing complains.

SLSKDN_TEST_SCREENSHOTS=FOLDER keeps a picture of each, light and dark.
"""
import pytest

from browser import NARROW, WIDE
from conftest import screenshots
from world import until


@pytest.fixture(scope="module")
def scene(world, box):
    """Searches with and without results, downloads in several states, an upload, messages, a wish, a fetched list."""
    them = world.them
    found = until("the search finds all", lambda: box.search("them", lambda rs: [
        (f["filename"], f["size"]) for r in rs for f in r["files"]] if rs else None))
    box.search("hostile", lambda rs: rs)
    box.call("POST", "/searches", json={"searchText": "nobody has this"}).raise_for_status()
    song = next(f for f in found if "first song" in f[0])
    big = next(f for f in found if "long mix" in f[0])
    box.enqueue("them", [song])
    until("the song is here", lambda: box.finished("them", song[0]))
    box.enqueue("them", [big, (song[0].replace("first", "missing"), 5_000_000)])
    wanted = {"user": "ghost", "files": [{"path": "music\\far\\away.flac", "size": 12_345_678}]}
    box.call("POST", "/api/downloads", json=wanted).raise_for_status()
    them.ctl(cmd="download", user="box", path="share-box\\Some Artist\\Álbum\\box - long mix.flac", size=24 << 20)
    box.call("POST", "/api/messages/them", json={"text": "Hello! Have you got the other half of that album?\nThe live one, I mean."})
    them.ctl(cmd="pm", user="box", message="Yes, I will share it tonight. " * 5)
    until("the message is here", lambda: len(box.get("/api/messages/them")) > 1)
    box.call("POST", "/api/wishlist", json={"text": "a rare b-side"})
    searches = {s["searchText"]: s["id"] for s in box.get("/searches")}
    return {
        "status": "/", "search": "/search", "results": f"/searches/{searches['them']}",
        "results-hostile": f"/searches/{searches['hostile']}", "results-none": f"/searches/{searches['nobody has this']}",
        "downloads": "/downloads", "uploads": "/uploads", "shares": "/shares", "folders": "/shares/folders",
        "users": "/users", "user": "/users/them", "user-offline": "/users/ghost", "browse": "/users/them/browse",
        "log": "/log?level=DEBUG", "settings": "/settings", "system": "/system", "setup": "/setup", "problem": "/searches/none",
    }


def test_every_page(page, box, scene):
    page.open(f"{box.url}/users/them/browse")
    if page.has("//button[.='Fetch the list']"):
        page.click("Fetch the list")
        page.sees("files in")
    page.click("share-them\\Some Artist\\Álbum")
    pages = {**scene, "folder": page.address.removeprefix(box.url)}
    kept = screenshots()
    for width in (WIDE, NARROW):
        for name, path in pages.items():
            page.size(width)
            page.open(box.url + path)
            assert page.has("//h1"), name
            assert page.spills() == [], (name, width)
            if kept:
                page.screenshot(kept / f"{name}-{width}{'' if page.scripts else '-plain'}.png")
                if page.scripts:
                    page.size(width, dark=True)
                    page.screenshot(kept / f"{name}-{width}-dark.png")
    page.size(WIDE)
