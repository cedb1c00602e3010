"""An update by the API: the other slot is written, tried, found good and kept; one that does not work leads back."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import requests
from machine import IMAGES, LONG, Machine
from test_boot import KEY, api, card, until  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
SIGNING = os.environ.get("SLSKDN_IMAGE_KEY", "")


def bundle(tmp_path, source, version, key=SIGNING):
    """What `image/build` left in a folder, under another version, as one signed file."""
    folder = tmp_path / f"of {version}".replace(" ", "-")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.img", "*.img.xz"))
    about = folder / "slot" / "slot"
    about.write_text("\n".join(f"version={version}" if line.startswith("version=") else line
                               for line in about.read_text().splitlines()) + "\n")
    subprocess.run(["signify-openbsd", "-S", "-s", key, "-m", about, "-x", f"{about}.sig"], check=True)
    out = tmp_path / f"{version}.update"
    subprocess.run([ROOT / "image/bundle", "--key", key, "--boards", "qemu-virt", folder / "slot", out], check=True)
    shutil.rmtree(folder)
    return out


def install(box, file):
    with open(file, "rb") as body:
        return requests.post(f"http://127.0.0.1:{box.tools}/api/update", headers={"X-API-Key": KEY}, data=body, timeout=LONG)


def test_an_update_is_written_tried_and_kept(card, tmp_path):  # noqa: F811
    update = bundle(tmp_path, IMAGES / "qemu-virt", "9.0.0")
    with Machine(card, tmp_path / "serial.log") as box:
        box.up()
        answer = install(box, update)
        assert answer.ok, answer.text
        # It restarts by itself.
        box.wait(r"slskdn-initrd: slot B, 9\.0\.0, on /dev/vda3")
        box.wait(r"Startup finished in", times=2)
        # Tries of slot B: none while it is tried, three once it was found good.
        until("the new slot is found good", lambda: b"BOOT_B_LEFT=3" in card.read("slots.txt"), LONG)
        box.up()
        assert "9.0.0" in str(api(box, "/appliance"))
        box.shut_down()
    assert card.slots() == ("B A", 3, 3)


@pytest.mark.skipif(os.environ.get("SLSKDN_IMAGE_MORE") != "1", reason="builds another image: tests/soak runs it")
def test_a_program_that_does_not_start_leads_back(card, tmp_path):  # noqa: F811
    broken = tmp_path / "broken"
    subprocess.run([ROOT / "image/build", "--plain", "--key", SIGNING, "--binary", "/bin/false", "--out", broken, "qemu-virt"],
                   check=True, capture_output=True)
    update = bundle(tmp_path, broken, "9.0.0")
    with Machine(card, tmp_path / "serial.log") as box:
        box.up()
        assert install(box, update).ok
        box.wait(r"slskdn-initrd: slot B, 9\.0\.0, on /dev/vda3")
        box.wait(r"slskdn-initrd: slot A, ", times=2)
        box.up()
        box.shut_down()
    order, a, b = card.slots()
    assert (order, b) == ("B A", 0), (order, a, b)
