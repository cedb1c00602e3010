"""What an owner does every day, by hand: search, fetch, watch, cancel, share, talk, wish, look around."""
import json
import re

import pytest

from conftest import HOSTILE
from world import sha256, until

FOLDER = "share-them\\Some Artist\\Álbum"


def original(peer, word):
    return next(path for name, path in peer.files.items() if word in name)


def search(page, box, words):
    page.open(f"{box.url}/search")
    page.fill("Words", words, within="//form[.//button[.='Search']]")
    page.click("Search", within="//form")
    page.says(f"Results for “{words}”")


def ask_for(page, name):
    page.click(f"Download {name}")
    if page.scripts:
        page.until("the button says so", lambda: page.has("//button[.='Asked for']"), 10)
    else:
        page.says("Asked for.")


@pytest.fixture(autouse=True)
def empty(box):
    """Lists are empty before each test, whatever the one before left."""
    for direction in ("downloads", "uploads"):
        until("nothing is under way", lambda: not [t for u in box.get(f"/transfers/{direction}/") for d in u["directories"]
                                                   for t in d["files"] if not t["state"].startswith("Completed")])
        box.call("DELETE", f"/transfers/{direction}/all/completed").raise_for_status()


def clear(page):
    """Leaves an empty list for the next one."""
    page.until("all is over", lambda: not page.has("//button[.='Cancel']"))
    page.click("Clear finished…")
    page.click("Clear finished")
    page.says("Finished transfers are cleared", "No downloads.")


def test_search_download_cancel_clear(page, world, box):
    word = "first song" if page.scripts else "Fjörd"
    name = original(world.them, word).name
    search(page, box, f"them {word}")
    page.until("the file is found", lambda: page.has(f"//button[@aria-label='Download {name}']"))
    ask_for(page, name)
    page.open(f"{box.url}/downloads")
    page.until("it is finished", lambda: "finished" in page.row(name))
    assert "single source" in page.row(name)
    here = box.downloads / "Álbum" / name
    assert sha256(here) == sha256(original(world.them, word))

    # The search knows it now.
    page.driver.back()
    page.driver.refresh()
    page.until("the result is marked", lambda: "finished" in page.row(name))
    assert not page.has(f"//button[@aria-label='Download {name}']")

    # Another one is stopped on its way.
    search(page, box, "them long mix")
    mix = original(world.them, "mix").name
    page.until("the mix is found", lambda: page.has(f"//button[@aria-label='Download {mix}']"))
    ask_for(page, mix)
    page.open(f"{box.url}/downloads")
    page.until("it moves, at a speed that is told", lambda: re.search(
        r"[1-9]\d* % · .* MiB of 24.0 MiB · .*iB/s · .* left", page.row(mix)))
    page.click(f"Cancel {mix}")
    page.says("Cancel this download?", "may have to be fetched again")
    page.click("Cancel the download")
    page.until("it is cancelled", lambda: "cancelled" in page.row(mix), 20)
    page.click(f"Remove {mix} from the list")
    page.until("it is gone", lambda: not page.row(mix) and name in page.text, 10)
    clear(page)
    assert here.exists(), "clearing the list leaves the files"


def test_browse_a_user_and_download_from_there(page, world, box):
    page.open(f"{box.url}/users")
    page.fill("User name", "them")
    page.click("Show")
    # The page waits some seconds for the user; then it is to be loaded again, as it says.
    page.until("the user tells of himself", lambda: page.open(f"{box.url}/users/them") or all(
        word in page.text for word in ("Online", "Upload slots")))
    page.click("Shared folders")
    page.click("Fetch again" if page.has("//button[.='Fetch again']") else "Fetch the list")
    page.sees("The share list has arrived", "13 files in 4 folders", seconds=30)
    page.fill("Words in the folder’s name", "álbum")
    page.click("Filter")
    page.says("1 folder with these words.")
    page.click(FOLDER)
    name = original(world.them, "Fjörd" if page.scripts else "first song").name
    page.until("the folder is shown", lambda: page.row(name))
    ask_for(page, name)
    page.open(f"{box.url}/downloads")
    page.until("it is finished", lambda: "finished" in page.row(name))
    assert [f for f in box.downloads.rglob("*") if f.is_file() and sha256(f) == sha256(world.them.files[name])]
    clear(page)


def test_messages_both_ways(page, world, box):
    them, words = world.them, f"héllo <b>there</b> {page.scripts}"
    page.open(f"{box.url}/users/them")
    page.fill("Message", words)
    page.click("Send")
    page.says("The message is sent", words)
    them.event("pm", user="box", message=words)
    answer = f"<script>document.title='pwned'</script> wörld {page.scripts}"
    them.ctl(cmd="pm", user="box", message=answer)
    page.sees(answer, seconds=30)
    talk = page.text_of("//*[contains(concat(' ', @class, ' '), ' talk ')]")
    assert talk.index(words) < talk.index(answer), "an answer stands below what it answers"
    page.click("Forget the conversation…")
    page.click("Forget the conversation")
    page.says("Forgotten.")
    assert words not in page.text


def test_wishes(page, box):
    wish = f"a rare b-side {page.scripts}"
    page.open(f"{box.url}/search")
    page.fill("Words", wish, within="//form[.//button[.='Add wish']]")
    page.click("Add wish")
    page.says("The wish is added", wish)
    page.click(f"Remove the wish {wish}")
    page.says("The wish is removed")
    assert wish not in page.text


def test_shares_are_scanned_again(page, box):
    new = box.share / "Some Artist" / "Álbum" / f"new {page.scripts}.mp3"
    new.write_bytes(b"x" * 123)
    try:
        page.open(f"{box.url}/shares")
        page.click("Scan all now")
        page.says("The scan has begun")
        page.sees("18 files in")
        page.click("Look at everything others see")
        page.until("it is listed", lambda: "123 B" in page.row(new.name))
    finally:
        new.unlink()
    page.open(f"{box.url}/shares")
    page.click("Scan share-box now")
    page.sees("17 files in")


def test_settings_take_effect(page, world, box):
    page.open(f"{box.url}/settings")
    fixed = page.driver.find_element("name", "soulseek.username")
    assert not fixed.is_enabled() and "Set by flag --set; change it there." in page.text
    page.fill("Uploads at once", "1")
    page.click("Save: Transfers")
    page.says("The settings are changed")
    row = page.row("global.upload.slots")
    assert re.search(rf"\b1 file {re.escape(str(box.home))}/slskdn\.yml:\d+:\d+", row.replace("\n", " ")), row
    # One at a time from now on.
    page.open(f"{box.url}/uploads")
    first, second = (box.share / "Slow" / f"slow {page.scripts} {n}.flac" for n in (1, 2))
    for path in (first, second):
        world.them.ctl(cmd="download", user="box", path=f"share-box\\Slow\\{path.name}", size=path.stat().st_size)
        page.sees("uploading")
    page.sees("1 active, 1 waiting", "uploading", "waits for a slot", seconds=30)
    page.click(f"Cancel {first.name}")
    page.until("the other one has the slot", lambda: "cancelled" in page.row(first.name) and "finished" in page.row(second.name))
    page.open(f"{box.url}/settings")
    page.fill("Uploads at once", "0")
    # The browser knows the limits; what it lets through, the program refuses.
    page.driver.execute_script("document.querySelector('[name=\"global.upload.slots\"]').form.noValidate = true")
    page.click("Save: Transfers")
    page.says("That did not work", "global.upload.slots")
    page.open(f"{box.url}/settings")
    page.driver.find_element("name", "global.upload.slots").clear()
    page.click("Save: Transfers")
    page.says("The settings are changed")
    assert "built-in" in page.row("global.upload.slots")


def test_the_log_is_read(page, box):
    page.open(f"{box.url}/log")
    page.says("the page is at")
    page.fill("Show", "ERROR")
    page.click("Show")
    page.says("Nothing at this level.")


def test_hostile_names_are_shown_and_run_nothing(page, world, box):
    search(page, box, "hostile")
    page.until("all are found", lambda: all(shown in page.text for shown in HOSTILE.values()))
    ask_for(page, "the folder share-them\\hostile <script>document.title='pwned' ⟨U+202E⟩ecilop")
    page.open(f"{box.url}/downloads")
    page.until("all are here", lambda: page.text.count("single source") == len(HOSTILE))
    for path in ("/downloads", "/shares/folders", "/log", "/"):
        page.open(box.url + path)
        assert "pwned" not in page.title and page.alert() is None
        if path in ("/downloads", "/shares/folders"):
            # What we share goes out without control characters, so it comes back as it went.
            names = [re.sub("[␀-␡]", "_", shown) if path == "/shares/folders" else shown for shown in HOSTILE.values()]
            assert [shown for shown in names if shown not in page.text] == [], path
        assert not page.has("//body//*[@onload or @onerror or @onmouseover or self::svg]")
        assert page.driver.execute_script("return document.scripts.length") <= 1
    page.open(f"{box.url}/downloads")
    clear(page)
    # No control character of theirs reaches the terminal either.
    log = world.log("box")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e\u2066]", log), json.dumps(re.search(r".{0,80}[\x00-\x08\x0b-\x1f\u202e\u2066]", log).group())
