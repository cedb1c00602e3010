"""What people get wrong: one clear sentence each, the right exit code, and nothing lost."""
import os
import socket

import pytest
import requests

from box import HERE, Box, lines, refuses, run
from world import Node, until


def test_all_mistakes_of_the_configuration_at_once(tmp_path):
    file = tmp_path / "slskdn.yml"
    text = ("soulseek:\n  usrname: me\n  listen_port: many\nshares:\n  directories:\n    - music\nweb:\n  prot: 80\n"
            "nonsense: 1\n")
    file.write_text(text)
    check = lines(run("--data", tmp_path, "config", "check", code=2))
    assert check == [
        f"slskdn: {file}:2:3: soulseek.usrname: unknown key; did you mean soulseek.username?",
        f"slskdn: {file}:3:3: soulseek.listen_port: a whole number from 0 to 65535 is wanted, not `many`",
        f"slskdn: {file}:8:3: web.prot: unknown key; did you mean web.port?",
        f"slskdn: {file}:9:1: nonsense: unknown key",
        f"slskdn: {file}:5:3: shares.directories: an absolute path is wanted, not `music`",
    ]
    serve = run("--data", tmp_path, "serve", code=2)
    assert lines(serve) == [*check, "slskdn: the configuration has mistakes; nothing was started"]
    assert file.read_text() == text and sorted(os.listdir(tmp_path)) == ["slskdn.yml"]


@pytest.mark.parametrize("text, told", [
    ("web: [", "not YAML"), ("web:\n  port: 1\n  port: 2\n", "given twice"), ("- a list\n", "keys with values are wanted"),
    ("a: &x 1\nb: *x\n", "aliases are not allowed"),
])
def test_files_that_are_no_configuration(tmp_path, text, told):
    (tmp_path / "slskdn.yml").write_text(text)
    assert any(told in line for line in lines(run("--data", tmp_path, "config", "check", code=2)))


def test_mistakes_in_flags_and_environment(tmp_path):
    told = lines(run("--data", tmp_path, "--set", "web.port", "--set", "web.port=x", "config", "check", code=2,
                     environment={"SLSKDN_WEB_PROT": "1"}))
    assert len(told) == 3, told
    assert any("flag --set" in line and "key=value is wanted" in line for line in told)
    assert any("environment variable SLSKDN_WEB_PROT" in line for line in told)


def test_a_configuration_file_that_is_not_there(tmp_path):
    told = refuses("--data", tmp_path, "--config", tmp_path / "absent.yml", "config", "check")
    assert str(tmp_path / "absent.yml") in told and "cannot be read" in told


def test_a_real_slskd_file_loads_with_warnings(tmp_path):
    done = run("--data", tmp_path, "--config", HERE / "slskd.yml", "config", "check")
    warned = {line.split(": ")[3] for line in lines(done)}
    assert {"web.https", "retention", "integration", "rooms", "relay", "soulseek.connection"} <= warned
    assert all("which this program does not have" in line for line in lines(done))
    assert len(warned) == len(lines(done)), "one warning a section"
    printed = run("--data", tmp_path, "--config", HERE / "slskd.yml", "config", "print").stdout
    for text in ["username: \"vinylhead\"", "slots: 12", "listen_port: 50300", "\"[Lossless]/srv/music/flac\"", "port: 5030"]:
        assert text in printed, text
    assert "correct horse" not in printed


def test_too_little_memory(tmp_path):
    assert "memory.budget: 40 MiB are too few" in refuses("--data", tmp_path, "--set", "memory.budget=40", "serve")


@pytest.mark.parametrize("key", ["soulseek.listen_port", "web.port"])
def test_a_taken_port(box, key):
    one = box()
    with socket.socket() as taken, socket.socket() as server:
        for each in (taken, server):
            each.bind(("127.0.0.1", 0))
            each.listen()
        free, port = one.settings[key], taken.getsockname()[1]
        one.settings[key] = port
        account = {"address": "127.0.0.1", "port": server.getsockname()[1], "username": "me", "password": "pw"}
        told = refuses(*one.flags(), *[x for k, v in account.items() for x in ("--set", f"soulseek.{k}={v}")], "serve")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert str(port) in told and key in told and "another program" in told, told
    one.settings[key] = free
    one.start()
    assert one.stop() == 0, "nothing was broken by it"


def test_a_second_daemon_on_the_same_data(box):
    first = box().start()
    other = Box(first.tmp, first.name)
    told = refuses(*other.flags(), "serve")
    assert f"{first.home}/store is in use by another process" in told
    assert first.get("/api/status")["server"]["state"] == "unconfigured", "the first one goes on"


def test_data_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    told = refuses("--data", tmp_path / "file" / "data", "serve")
    assert f"the data directory {tmp_path}/file/data cannot be used" in told


def test_missing_parents_of_the_data_are_made(box):
    one = box("some/where/deep")
    (one.tmp / "some/where").mkdir(parents=True)  # for the log beside it
    one.home = one.tmp / "not/there/yet"
    one.start()
    assert (one.home / "slskdn.yml").exists()


@pytest.mark.parametrize("missing", [True, False], ids=["missing", "unreadable"])
def test_a_share_that_cannot_be_read(box, tmp_path, missing):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    (good / "a song.mp3").write_bytes(b"x" * 1000)
    if not missing:
        bad.mkdir()
        (bad / "hidden.mp3").write_bytes(b"x")
        bad.chmod(0)
    # Without capabilities, so that folder rights bind the super-user as well.
    one = box("box", "--music", good, "--music", bad, before=("setpriv", "--bounding-set=-all", "--inh-caps=-all"))
    one.start()
    until("the good folder is shared", lambda: one.get("/api/status")["shares"]["files"] == 1)
    told = " ".join(one.get("/api/status")["warnings"])
    assert str(bad) in told and "cannot be read" in told, told
    assert str(bad) in one.log()
    if missing:
        bad.mkdir()
        (bad / "another.mp3").write_bytes(b"x")
    else:
        bad.chmod(0o755)
    one.call("POST", "/api/shares/rescan").raise_for_status()
    until("both are shared", lambda: one.get("/api/status")["shares"]["files"] == 2)
    until("the warning goes", lambda: str(bad) not in " ".join(one.get("/api/status")["warnings"]))


@pytest.mark.parametrize("shared", ["", "slskdn", "slskdn/store"], ids=["above", "itself", "below"])
def test_the_state_is_never_shared_by_whatever_path(box, tmp_path, shared):
    """On the appliance the data directory has two paths: a bind mount keeps a link from being seen through."""
    disk = tmp_path / "disk"
    (disk / "slskdn").mkdir(parents=True)
    (disk / "a song.mp3").write_bytes(b"x" * 1000)
    (disk / "slskdn" / "another song.mp3").write_bytes(b"x" * 1000)
    (disk / "slskdn" / "identity").mkdir(mode=0o700)
    (disk / "slskdn" / "identity" / "secrets.yml").write_text("{}")
    script = 'mkdir -p "$1" && mount --bind "$0" "$1" && shift && exec "$@"'
    one = box("box", "--music", disk / shared, before=("unshare", "--map-root-user", "--mount", "sh", "-c", script, disk / "slskdn", tmp_path / "box"))
    one.start()
    until("it was scanned", lambda: one.get("/api/shares")["scanned_at"])
    assert (disk / "slskdn" / "store" / "data.mdb").exists(), "the state is really there"
    listed = one.get("/api/shares/folders")
    assert one.get("/api/shares")["files"] == {"": 2, "slskdn": 1, "slskdn/store": 0}[shared], listed


def test_a_share_that_is_a_relative_path(tmp_path):
    told = refuses("--data", tmp_path, "--set", "shares.directories=music", "config", "check")
    assert "an absolute path is wanted, not `music`" in told


def test_a_filter_that_is_no_regular_expression(box):
    told = refuses(*box(shares__filters="[oops").flags(), "serve")
    assert "the filter `[oops` is not understood" in told, told


def test_wrong_password(world):
    node = Node(world, soulseek__password="right horse")
    assert node.process.stop() == 0
    # Not as a flag: the file is what the page changes.
    del node.settings["soulseek.username"], node.settings["soulseek.password"]
    (node.home / "slskdn.yml").write_text("soulseek:\n  username: box\n  password: wrong horse\n")
    node.start(wait=False)

    def parked():
        try:
            server = node.get("/api/status")["server"]
        except requests.ConnectionError:
            return None
        return server if server["reason"] and server["state"] == "disconnected" else None
    server = until("it says why", parked)
    assert server["reason"] == "wrong password for box, or the name belongs to somebody else"
    assert server["retry_at"] is None, "only the owner can mend it"
    ready = node.call("GET", "/api/../ready")
    assert ready.status_code == 503 and ready.json()["reasons"] == ["not logged in to the Soulseek server"]
    assert "horse" not in node.process.log.read_text()
    assert world.log("server").count('"INVALIDPASS') + world.log("server").count("INVALIDPASS'") == 1
    node.call("POST", "/api/settings", json={"soulseek.password": "right horse"}).raise_for_status()
    until("it is logged in", node.logged_in)
