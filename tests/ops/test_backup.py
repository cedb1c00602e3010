"""Backups: while the daemon runs and without it, their return, and what is refused."""
import os
import stat

import pytest

from box import lines, refuses, run

STRANGER = "somebody-away"


def fill(one):
    """State of every kind that a backup must carry."""
    one.post("/api/wishlist", {"text": "rare record"})
    one.post(f"/api/v0/transfers/downloads/{STRANGER}",
             [{"filename": rf"@@a\Äther\{n}.flac", "size": 1_000 + n} for n in range(50)])
    one.post("/api/settings", {"global.upload.slots": 9})


def state(one):
    """All that is kept for a person, as the API tells it."""
    wishes = [wish["text"] for wish in one.get("/api/wishlist")]
    rows = [f for d in one.get(f"/api/v0/transfers/downloads/{STRANGER}")["directories"] for f in d["files"]]
    kept = [{k: row[k] for k in ("id", "filename", "size", "requestedAt", "bytesTransferred")} for row in rows]
    slots = next(row["value"] for row in one.get("/api/settings") if row["key"] == "global.upload.slots")
    return wishes, sorted(kept, key=lambda row: row["id"]), slots


@pytest.fixture
def filled(box):
    one = box().start()
    fill(one)
    assert len(state(one)[1]) == 50
    return one


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_there_and_back(filled, box, tmp_path, running):
    before, file = state(filled), tmp_path / "box.backup"
    if not running:
        assert filled.stop() == 0
    done = run("--data", filled.home, "backup", file)
    assert "verified" in done.stdout and "with the configuration" in done.stdout and str(file) in done.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, "it may hold a password"
    if running:
        assert state(filled) == before, "the daemon goes on"
        filled.stop()
    other = box("other")
    assert "records are in" in run("--data", other.home, "restore", file).stdout
    other.start()
    assert state(other) == before


def test_a_backup_never_overwrites(filled, tmp_path):
    file = tmp_path / "mine"
    file.write_text("precious")
    assert "exists already" in refuses("--data", filled.home, "backup", file)
    assert file.read_text() == "precious"


def test_nobody_names_a_file_over_the_network(filled, tmp_path):
    answer = filled.call("POST", "/api/backup", json={"path": str(tmp_path / "file")})
    assert answer.status_code == 403 and "control socket" in answer.json()["error"]
    assert not (tmp_path / "file").exists()


def test_a_backup_that_cannot_be_written(filled, tmp_path):
    told = refuses("--data", filled.home, "backup", tmp_path / "absent" / "file", code=1)
    assert "absent/file" in told
    filled.stop()
    refuses("--data", filled.home, "backup", tmp_path / "absent" / "file", code=1)


def test_nothing_to_back_up(tmp_path):
    assert "there is no store in" in refuses("--data", tmp_path / "none", "backup", tmp_path / "file")
    assert not (tmp_path / "none").exists()


def test_restore_only_into_an_empty_store(filled, tmp_path):
    before, file = state(filled), tmp_path / "file"
    run("--data", filled.home, "backup", file)
    for _ in range(2):  # while it runs, then without it
        assert "only restored into an empty folder" in refuses("--data", filled.home, "restore", file)
        filled.stop()
    filled.start()
    assert state(filled) == before


@pytest.mark.parametrize("damage", ["flipped", "cut", "other", "absent"])
def test_a_damaged_backup_is_refused(filled, box, tmp_path, damage):
    file = tmp_path / "file"
    run("--data", filled.home, "backup", file)
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    elif damage == "cut":
        data = data[:-1]
    elif damage == "other":
        data = bytearray(b"something else\n")
    file.write_bytes(data)
    if damage == "absent":
        file.unlink()
    other = box("other")
    told = refuses("--data", other.home, "restore", file, code=1 if damage == "absent" else 2)
    assert str(file) in told, told
    run("--data", filled.home, "backup", tmp_path / "good")
    run("--data", other.home, "restore", tmp_path / "good")


@pytest.mark.parametrize("how", ["start", "again"])
def test_a_restore_cut_off_before_the_configuration_is_completed(filled, box, tmp_path, how):
    before, file = state(filled), tmp_path / "file"
    run("--data", filled.home, "backup", file)
    filled.stop()
    other = box("other")
    run("--data", other.home, "restore", file)
    # As a power cut leaves it: the store is in its place, the configuration still lies in it.
    (other.home / "slskdn.yml").rename(other.home / "store" / "restored.yml")
    if how == "again":
        assert "is now complete, and the configuration" in run("--data", other.home, "restore", file).stdout
        assert stat.S_IMODE((other.home / "slskdn.yml").stat().st_mode) == 0o600
    other.start()
    assert state(other) == before
    assert not (other.home / "store" / "restored.yml").exists()


def test_a_restore_cut_off_before_the_store_is_not_forgotten(filled, box, tmp_path):
    before, file = state(filled), tmp_path / "file"
    run("--data", filled.home, "backup", file)
    filled.stop()
    other = box("other")
    (other.home / "store.restoring").mkdir(parents=True)
    (other.home / "store.restoring" / "data.mdb").write_bytes(b"half")
    told = refuses(*other.flags(), "serve")
    assert "run it again, or remove" in told and str(other.home / "store.restoring") in told, told
    assert not (other.home / "store").exists()
    run("--data", other.home, "restore", file)
    other.start()
    assert state(other) == before


def test_a_name_that_is_not_text(filled, tmp_path):
    name = os.fsencode(tmp_path) + b"/b\xff.backup"
    told = run("--data", filled.home, "backup", os.fsdecode(name), code=2).stderr
    assert "can only be told a name in UTF-8" in told, told
    filled.stop()
    run("--data", filled.home, "backup", os.fsdecode(name))
    assert os.path.exists(name)


def test_an_own_configuration_survives_a_restore(filled, box, tmp_path):
    run("--data", filled.home, "backup", tmp_path / "file")
    other = box("other")
    other.home.mkdir()
    (other.home / "slskdn.yml").write_text("# mine\n")
    assert "was kept" in run("--data", other.home, "restore", tmp_path / "file").stdout
    assert (other.home / "slskdn.yml").read_text() == "# mine\n"
    assert lines(run("--data", other.home, "config", "check")) == []
