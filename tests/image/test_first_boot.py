"""First starts on cards that somebody filled in wrongly, or without a network: the box comes up and says what is wrong."""
import os
import re

import pytest
import requests
from machine import LONG, Disk, Machine
from test_boot import until

NO_YML = b"soulseek:\r\n  usernam: me\r\nweb:\r\n  port: many\r\n"


@pytest.fixture
def disk(tmp_path):
    return Disk("qemu-virt", tmp_path / "card.img")


def fill(disk):
    """Until not a byte is free on the boot partition."""
    free = int(re.search(r"([\d ]+) bytes free", disk.fat("mdir", "::/").decode())[1].replace(" ", ""))
    disk.write("holiday.mp4", b"x" * free)
    assert "no bytes free" in disk.fat("mdir", "::/").decode() or re.search(r"\s0 bytes free", disk.fat("mdir", "::/").decode())


def code_on(box):
    return box.wait(r"enter the set-up code: ([a-z0-9-]+)")[1]


def signed_in(box, code):
    """What an owner does first: the code, a password."""
    session = requests.Session()
    at = f"http://{box.host}:{box.tools}/setup"
    form = session.get(at, timeout=60).text
    token = re.search(r'name="csrf" value="([^"]+)"', form)[1]
    done = session.post(at, data={"csrf": token, "code": code, "new": "correct horse", "again": "correct horse"}, timeout=LONG,
                        headers={"Origin": at.rsplit("/", 1)[0]})
    assert done.ok and "role=\"alert\"" not in done.text, done.text[:500]
    return session


def test_mistakes_on_a_full_card_with_a_wrong_clock(disk, tmp_path):
    """All that can go wrong at once: nothing of it keeps the box from its page."""
    disk.write("slskdn.yml", NO_YML)
    disk.write("network", b"address=ten\n")
    disk.write("hostname", b"-no name-\n")
    disk.write("authorized_keys", b"my key\n")
    fill(disk)
    with Machine(disk, tmp_path / "serial.log", more=["-rtc", "base=2001-01-01T00:00:00"]) as box:
        box.up()
        code = code_on(box)
        for word in (r"slskdn\.yml on the card:2", r"slskdn\.yml on the card:4", "network: line 1", "hostname: line 1", "authorized_keys: line 1",
                     "the set-up code could not be written on the boot partition"):
            box.wait(word)
        # On the page, too, once somebody is let in; an empty box has no data to show before.
        page = signed_in(box, code)
        problems = until("the page tells the mistakes", lambda: (found := page.get(f"http://{box.host}:{box.tools}/", timeout=60).text)
                         and "usernam" in found and "network: line 1" in found and found)
        assert "web.port" in problems
        system = page.get(f"http://{box.host}:{box.tools}/system", timeout=60).text
        assert "The time was not set from the network" in system
        box.shut_down()
    # Nothing of the owner's was lost for room.
    assert disk.read("slskdn.yml") == NO_YML
    assert disk.slots() == ("A B", 3, 0)


def test_without_a_cable_the_screen_says_so(disk, tmp_path):
    with Machine(disk, tmp_path / "serial.log") as box:
        box.wait("U-Boot")
        box.command("set_link", name="n", up=False)
        box.wait("no network: no cable in eth0")
        code_on(box)
        assert b"this set-up code" in disk.read("set-up-code.txt")
        box.command("set_link", name="n", up=True)
        box.wait(r"the page is at http://slskdn\.local and at http://10\.0\.2\.\d+")
        box.up()


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="one start more: tests/soak runs it")
def test_without_a_network_card(disk, tmp_path):
    with Machine(disk, tmp_path / "serial.log", has_card=False) as box:
        box.wait("no network: this box has no network card")
        box.wait("Startup finished in")
        code_on(box)
