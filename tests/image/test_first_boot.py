"""First starts on cards that somebody filled in, rightly or wrongly, or without a network: the box comes up and says what is wrong."""
import base64
import os
import re
import socket
import struct
import textwrap
import threading
import time
from pathlib import Path

import pytest
import requests
from machine import BOX_IS, HERE_IS, LONG, NETWORK, NO_ROUTER, Disk, Machine, cable, mdns
from test_boot import LATER, until

ROOT = Path(__file__).resolve().parents[2]

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


@pytest.fixture
def time_server(names):
    """Where the image asks for the time: a server, of RFC 5905's simple kind, whose time is LATER."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((HERE_IS, 123))
    begun = time.monotonic()

    def now():
        at = LATER + 2_208_988_800 + time.monotonic() - begun  # its seconds count from 1900
        return struct.pack(">II", int(at), int(at % 1 * (1 << 32)))

    def answer():
        while len((heard := server.recvfrom(1500))[0]) >= 48:
            question, asker = heard
            # Version 4, a server; stratum 1, good to 2^-20 s, at no distance.
            head = struct.pack(">BBBb8x4s", 0x24, 1, question[2], -20, b"TEST")
            server.sendto(head + now() + question[40:48] + now() + now(), asker)

    answering = threading.Thread(target=answer, daemon=True)
    answering.start()
    settings = (ROOT / "image/rootfs/usr/lib/systemd/timesyncd.conf.d/50-slskdn.conf").read_text()
    asked = re.search(r"^NTP=(.+)", settings, re.M)[1].split()
    names.update(dict.fromkeys(asked, HERE_IS))
    yield
    for name in asked:
        del names[name]
    server.sendto(b"end", (HERE_IS, 123))
    answering.join()
    server.close()


@pytest.fixture
def namesake():
    """`begin()` puts another slskdn.local on the cable: what it says and answers by multicast DNS (RFC 6762)."""
    cable()
    name = b"\x06slskdn\x05local\x00"
    ours = struct.pack(">6H", 0, 0x8400, 0, 1, 0, 0) + name + struct.pack(">HHIH", 1, 0x8001, 120, 4) + socket.inet_aton("10.77.0.9")
    member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    member.bind(("", 5353))
    here, everybody = socket.inet_aton(HERE_IS), ("224.0.0.251", 5353)
    member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(everybody[0]) + here)
    member.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
    member.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    member.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    ends = threading.Event()

    def answer():
        while not ends.is_set():
            heard = member.recv(9000)
            if len(heard) > 2 and heard[2] & 0x80 == 0 and name in heard:  # a question
                member.sendto(ours, everybody)

    answering = threading.Thread(target=answer, daemon=True)

    def begin():
        answering.start()
        member.sendto(ours, everybody)
    yield begin
    ends.set()
    if answering.is_alive():
        member.sendto(b"", (HERE_IS, 5353))
        answering.join()
    member.close()


def sent(box, path, **fields):
    """A browser that this form signed in."""
    session, at = requests.Session(), f"http://{box.host}:{box.tools}"
    token = re.search(r'name="csrf" value="([^"]+)"', session.get(f"{at}{path}", timeout=60).text)[1]
    done = session.post(f"{at}{path}", data={"csrf": token, **fields}, timeout=LONG, headers={"Origin": at})
    assert done.ok and "role=\"alert\"" not in done.text, done.text[:500]
    return session


def signed_in(box, code):
    """What an owner does first: the code, a password."""
    return sent(box, "/setup", code=code, new="correct horse", again="correct horse")


def test_mistakes_on_a_full_card_with_a_wrong_clock_and_no_network(disk, tmp_path):
    """All that can go wrong at once: nothing of it keeps the box from its page, which who is on the same cable finds."""
    disk.write("slskdn.yml", NO_YML)
    disk.write("network", b"address=ten\n")
    disk.write("hostname", b"-no name-\n")
    disk.write("authorized_keys", b"my key\n")
    fill(disk)
    with Machine(disk, tmp_path / "serial.log", on_cable=True, more=["-rtc", "base=2001-01-01T00:00:00"]) as box:
        box.wait("U-Boot")
        box.command("set_link", name="n", up=False)
        box.wait("no network: no cable in eth0")
        code = code_on(box)
        for word in (r"slskdn\.yml on the card:2", r"slskdn\.yml on the card:4", "network: line 1", "hostname: line 1", "authorized_keys: line 1",
                     "the set-up code could not be written on the boot partition"):
            box.wait(word)
        box.command("set_link", name="n", up=True)
        # The name that was none is not its name, and no router gives it an address.
        box.host = mdns("slskdn.local", here=NO_ROUTER)
        assert box.host.startswith("169.254."), box.host
        box.up()
        # On the page, too, once somebody is let in; an empty box has no data to show before.
        page = signed_in(box, code)
        problems = until("the page tells the mistakes", lambda: (found := page.get(f"http://{box.host}:{box.tools}/", timeout=60).text)
                         and "usernam" in found and "network: line 1" in found and found)
        assert "web.port" in problems
        box.wait(r"no network: no router gave eth0 an address\. On the same cable the page is at http://slskdn\.local")
        system = page.get(f"http://{box.host}:{box.tools}/system", timeout=60).text
        assert "The time was not set from the network" in system
        box.shut_down()
    # Nothing of the owner's was lost for room.
    assert disk.read("slskdn.yml") == NO_YML
    assert disk.slots() == ("A B", 3, 0)


def test_a_card_that_was_filled_in(disk, tmp_path, time_server):
    """With the lines of README's step 3, on a board without a clock."""
    lines = re.search(r"\n( +web:\n +authentication:\n +password: .*\n)", (ROOT / "README.md").read_text())[1]
    lines = textwrap.dedent(lines).replace("\n", "\r\n")
    disk.write("slskdn.yml", lines.replace("PUT-YOUR-OWN-HERE", "battery2staple").encode())
    disk.write("hostname", b"attic\r\n")
    disk.write("network", NETWORK.encode())
    with Machine(disk, tmp_path / "serial.log", on_cable=True, more=["-rtc", "base=2001-01-01T00:00:00"]) as box:
        box.up()
        assert mdns("attic.local") == BOX_IS
        box.wait(rf"the page is at http://attic\.local and at http://{re.escape(BOX_IS)}")
        until("the clock is set", lambda: box.clock() >= LATER, LONG)
        front = box.get("/", box.page, headers={"Host": "attic.local"})
        assert front.ok and front.history[-1].headers["Location"] == "/login" and "Sign in" in front.text, front.text[:500]
        page, at = sent(box, "/login", password="battery2staple"), f"http://{box.host}:{box.tools}"
        until("the page knows that it is set", lambda: page.get(f"{at}/api/appliance", timeout=60).json()["clock_set"], LONG)
        assert "The time was not set from the network" not in page.get(f"{at}/system", timeout=60).text
        # The password is for the box alone.
        until("it has left the card", lambda: b"battery2staple" not in disk.read("slskdn.yml"), LONG)
        box.shut_down()
    assert disk.read("slskdn.yml").decode() == lines.replace('"PUT-YOUR-OWN-HERE"', "~")
    # Nor is it where deleted files are looked for.
    start, length = disk.partition(1)
    with open(disk.path, "rb") as card:
        card.seek(start)
        assert b"battery2staple" not in card.read(length)
    assert not disk.has("set-up-code.txt")
    kept = disk.debugfs("stat /slskdn/identity/secrets.yml", "cat /slskdn/identity/secrets.yml")
    assert "Mode:  0600" in kept and "battery2staple" in kept, kept


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="one start more: tests/soak runs it")
def test_a_code_that_comes_while_the_card_is_written(disk, tmp_path):
    """A password is taken from the card before there is a code, and the card is slow."""
    disk.write("slskdn.yml", b"soulseek:\n  username: me\n  password: battery2staple\n")
    slow = base64.b64encode(b"[Service]\nExecStartPost=/bin/sleep 20\n").decode()
    append = f"systemd.set_credential_binary=systemd.unit-dropin.slskdn-card-write.service:{slow}"
    with Machine(disk, tmp_path / "serial.log", direct=True, append=append) as box:
        box.up()
        code = code_on(box)
        until("the code is on the card", lambda: disk.has("set-up-code.txt") and code.encode() in disk.read("set-up-code.txt"), LONG)
        until("the password is not", lambda: b"battery2staple" not in disk.read("slskdn.yml"), LONG)


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="one start more: tests/soak runs it")
def test_two_boxes_of_one_name(disk, tmp_path, namesake):
    """One of them gets a number; the screen and the card tell that name then, not the other box's."""
    disk.write("network", NETWORK.encode())
    # Without a copy of the log on the screen: what is awaited there its services say themselves, as on a board.
    with Machine(disk, tmp_path / "serial.log", on_cable=True, direct=True, append="systemd.journald.forward_to_console=0") as box:
        code = box.wait(r"open http://slskdn\.local and enter the set-up code: ([a-z0-9-]+)")[1]
        box.wait(r"the page is at http://slskdn\.local and at http://")
        # Who has a name keeps it; who comes to a cable asks first.
        box.command("set_link", name="n", up=False)
        namesake()
        box.command("set_link", name="n", up=True)
        number = box.wait(r"the page is at http://slskdn(\d+)\.local and at http://")[1]
        host = f"slskdn{number}.local"
        assert mdns(host) == BOX_IS
        until("the card says so", lambda: f"http://{host} ".encode() in disk.read("set-up-code.txt"), LONG)
        box.wait(rf"open http://{re.escape(host)} and enter the set-up code: {code}")
        front = box.get("/", box.page, headers={"Host": host})
        assert front.ok and "set-up code" in front.text.lower(), front.text[:500]
        signed_in(box, code)


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="one start more: tests/soak runs it")
def test_without_a_network_card(disk, tmp_path):
    with Machine(disk, tmp_path / "serial.log", has_card=False) as box:
        box.wait("no network: this box has no network card")
        box.wait("Startup finished in")
        code_on(box)
