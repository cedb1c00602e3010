"""Finished downloads go to a disk on USB, which comes and goes."""
import hashlib
import os

import pytest
from machine import HERE_IS, LONG, NETWORK, Machine
from test_boot import api, finished, prepared, rows, search, until, world  # noqa: F401
from test_running import Shell
from test_usb import disks, stick
from world import Peer, free_port


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="one start more: tests/soak runs it")
@pytest.mark.parametrize("kind", ["vfat", "exfat"])
def test_downloads_go_to_a_disk_and_wait_for_it(world, tmp_path, kind):  # noqa: F811
    """Names that Linux allows are made fit for it; a box without it comes up, and nothing that was fetched is fetched again."""
    offered = world.tmp / "share-friend" / "Why?"
    offered.mkdir(parents=True)
    content = os.urandom(3_000_000)
    (offered / 'A "quoted" song: what is it?.mp3').write_bytes(content)
    Peer(world, "nicotine", "friend", free_port(), "--bind", HERE_IS)
    stick(kind, path := tmp_path / f"{kind}.img")
    card, shell = prepared(tmp_path, world.port), Shell(tmp_path)
    card.write("network", NETWORK.encode())
    card.write("authorized_keys", shell.public)
    with Machine(card, tmp_path / "serial.log", on_cable=True, more=["-device", "qemu-xhci,id=usb"]) as box:
        box.up()
        until("SSH answers", lambda: shell.run("true", check=False).returncode == 0, LONG)

        def plug():
            box.command("device_add", driver="usb-storage", id="stick", drive=kind, bus="usb.0")
            return until("the box has it", lambda: disks(box).get(f"music-{kind}"), LONG)

        def start_anew():
            shell.run("systemctl restart slskdn.service")
            until("the page is back", lambda: box.get("/ready") is not None, LONG)

        box.command("blockdev-add", **{"driver": "raw", "node-name": kind, "file": {"driver": "file", "filename": str(path)}})
        disk = plug()
        assert (disk["writable"], disk["downloads"]) == (True, False), disk
        # The disk of this test is smaller than the room that is left free otherwise.
        api(box, "/settings", "POST", json={"directories.downloads": f"{disk['path']}/Downloads", "disk.min_free_mib": "16"})
        assert disks(box)[f"music-{kind}"]["downloads"] and len(api(box, "/appliance")["disks"]) == 1
        box.command("device_del", id="stick")
        until("it is gone", lambda: not disks(box), LONG)
        start_anew()
        until("its absence is told", lambda: any("cannot be used" in told for told in api(box, "/status")["warnings"]), LONG)
        [remote] = search(box, "quoted song", lambda found: len(found) == 1)
        api(box, "/v0/transfers/downloads/friend", "POST", json=[{"filename": remote, "size": len(content)}])

        def reason():
            folders = api(box, "/v0/transfers/downloads/friend")["directories"]
            return folders[0]["files"][0].get("exception") or ""

        until("the file waits for it", lambda: "downloads folder" in reason(), LONG)
        # Also over a start.
        start_anew()
        until("it waits again", lambda: "downloads folder" in reason(), LONG)
        assert not shell.run("ls -A /data/media").strip()
        plug()
        until("the file is there", lambda: finished(box, remote), LONG)
        assert not any("cannot be used" in told for told in api(box, "/status")["warnings"])
        [kept] = shell.run(f"find '{disk['path']}/Downloads' -type f").splitlines()
        assert kept == f"{disk['path']}/Downloads/Why_/A _quoted_ song_ what is it_.mp3", kept
        assert shell.run(f"sha256sum '{kept}'").split()[0] == hashlib.sha256(content).hexdigest()
        assert list(rows(box).values()) == ["Completed, Succeeded"]
