"""What a plug leaves that was pulled at the wrong moment: the next start puts it in order and goes on, without a hand."""
import os
import random
import time

import pytest
from machine import LONG, Machine
from test_boot import SEED, api, prepared, until
from test_first_boot import code_on, signed_in

MIB, GIB = 1 << 20, 1 << 30
# Of the boot sector of a FAT32 file system: its flags, bit 0 of which says that it was not put away in order; where its table
# of clusters begins; and how long that is, in sectors.
FLAGS, RESERVED, TABLE = 65, 14, 36


def superblock(card):
    pairs = (line.split(":", 1) for line in card.debugfs("stats -h").splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def test_a_boot_partition_and_data_that_were_not_put_away_in_order(tmp_path):
    """Clusters in use that no file has, and two files that have the same blocks, which `e2fsck -p` leaves to people."""
    card = prepared(tmp_path)
    start, _ = card.partition(1)
    with open(card.path, "r+b") as f:
        f.seek(start)
        sector = f.read(512)
        assert sector[FLAGS] & 1 == 0 and sector[82:87] == b"FAT32", sector[:90]
        f.seek(start + FLAGS)
        f.write(bytes([sector[FLAGS] | 1]))
        table = start + 512 * int.from_bytes(sector[RESERVED : RESERVED + 2], "little")
        length = 512 * int.from_bytes(sector[TABLE : TABLE + 4], "little")
        f.seek(table)
        clusters = f.read(length)
        last = max(at for at in range(8, length, 4) if clusters[at : at + 4] != bytes(4))
        lost = last // 4 + 1000
        f.seek(table + 4 * lost)
        f.write(b"".join(cluster.to_bytes(4, "little") for cluster in (lost + 1, lost + 2, 0x0FFF_FFFF)))
    card.debugfs("write /bin/true /one", "write /bin/false /other", "copy_inode /one /other", "set_super_value state 2")
    with Machine(card, tmp_path / "serial.log") as box:
        box.wait(r"slskdn-initrd: slot A, \S+, on /dev/vda2")
        box.wait(r"slskdn-initrd: e2fsck -p gave 4: repairing")
        box.up()
        until("the start is found good", lambda: b"BOOT_A_LEFT=3" in card.read("slots.txt"), LONG)
        # The code of the first start is there until it was used.
        code, told = code_on(box), card.read("set-up-code.txt").decode()
        assert "this set-up code" in told and f"    {code}\r\n" in told, told
        signed_in(box, code)
        until("the code that was used is gone from the card", lambda: not card.has("set-up-code.txt"), LONG)
        box.shut_down()
    assert card.slots() == ("A B", 3, 0)
    assert superblock(card)["Filesystem state"] == "clean"
    with open(card.path, "rb") as f:
        f.seek(start + FLAGS)
        assert f.read(1)[0] & 1 == 0, "the boot partition still counts as left in the middle"
        f.seek(table + 4 * lost)
        assert f.read(12) == bytes(12), "nothing was given back"


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="six starts more: tests/soak runs it")
@pytest.mark.parametrize("number", range(3))
def test_the_plug_is_pulled_while_the_data_partition_grows(tmp_path, number):
    chance = random.Random(SEED + number)
    wait = chance.uniform(0, 4)
    print(f"SOAK_SEED={SEED} {number}: {wait:.2f} s after it began")
    size = 64 * GIB
    card, log = prepared(tmp_path, size=size), tmp_path / "serial.log"
    with Machine(card, log, cache="writeback") as box:
        box.wait("slskdn-initrd: growing /dev/vda4")
        time.sleep(wait)  # the moment is the point
        box.cut()
    with Machine(card, log, cache="writeback") as box:
        box.up()
        assert api(box, "/status")["disk"]["backend"] == "io_uring"
        box.shut_down()
    start, length = card.partition(4)
    assert start + length > size - 2 * MIB
    told = superblock(card)
    assert int(told["Block count"]) * 4096 > length - 8 * MIB, told
    assert told["Filesystem state"] == "clean", told
