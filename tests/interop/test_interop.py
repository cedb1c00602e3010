"""Our daemon with Nicotine+ and with aioslsk: everything both ways, through /api/v0, over every kind of network."""
import signal

import pytest

from world import Node, Peer, World, free_port, sha256, until

KINDS = ["nicotine", "aioslsk"]
NETWORKS = {
    "direct": dict(search="direct"),
    "tree": dict(search="tree"),
    "we-firewalled": dict(search="direct", firewalled=["box"]),
    "they-firewalled": dict(search="direct", firewalled=["them"]),
    "tree-we-firewalled": dict(search="tree", firewalled=["box"]),
    "tree-they-firewalled": dict(search="tree", firewalled=["them"]),
}


@pytest.fixture(scope="module", params=[(n, k) for n in NETWORKS for k in KINDS], ids=lambda p: f"{p[0]}-{p[1]}")
def net(request):
    network, kind = request.param
    world = World(**NETWORKS[network])
    try:
        if world.search == "tree":
            # The first user is the root of the tree and alone hears searches from the server. aioslsk does not pass
            # its own searches down, so the root is a Nicotine+ of its own.
            root = Peer(world, "nicotine", "root", free_port(), files=False)
            root.event("search-seen", query="harness warm up")
        world.them = Peer(world, kind, "them", free_port())
        world.box = Node(world)
        if world.search == "tree":
            until("we have a parent", lambda: world.box.get("/application")["distributedNetwork"].get("parent"))
            if kind == "aioslsk":
                world.them.event("message", kind="DistributedBranchRoot.Request")
        yield world
    finally:
        world.close(request.session.testsfailed)


def remote(net, word):
    """Path and size of their file whose name has this word, by search."""
    def pick(responses):
        for r in responses:
            if r["username"] == "them":
                for f in r["files"]:
                    if word in f["filename"]:
                        return f["filename"], f["size"]
        return None
    return net.box.search(f"them {word}", pick)


def original(node, word):
    return next(path for name, path in node.files.items() if word in name)


WORDS = ["song", "Fjörd", "mix"]


def test_search_and_download(net):
    wanted = [remote(net, word) for word in WORDS]
    for word, (_, size) in zip(WORDS, wanted):
        assert size == original(net.them, word).stat().st_size
    net.box.enqueue("them", wanted)
    for word, (path, _) in zip(WORDS, wanted):
        until(f"{path} is here", lambda: net.box.finished("them", path))
        name = path.rsplit("\\", 1)[1]
        folder = path.rsplit("\\", 2)[1]
        here = net.box.downloads / folder / name
        assert sha256(here) == sha256(original(net.them, word))


def test_search_and_upload(net):
    net.them.ctl(cmd="search", query="box song")
    result = net.them.event("results", user="box")
    assert result["files"][0]["size"] == original(net.box, "song").stat().st_size
    folder = result["files"][0]["path"].rsplit("\\", 1)[0]
    for name, path in net.box.files.items():
        net.them.fetch("box", f"{folder}\\{name}", path.stat().st_size, path)
    for name in net.box.files:
        until(f"upload of {name} is over", lambda: any(
            t["filename"].endswith(name) and t["state"] == "Completed, Succeeded"
            for t in net.box.transfers("uploads", "them")))


def test_browse_both_ways(net):
    tree = net.box.get("/users/them/browse")
    names = {f["filename"] for d in tree["directories"] for f in d["files"]}
    assert set(net.them.files) <= names
    net.them.ctl(cmd="browse", user="box")
    seen = net.them.event("browse", user="box")
    names = {f["path"] for files in seen["folders"].values() for f in files}
    assert set(net.box.files) <= names


def test_folder(net):
    folder = remote(net, "song")[0].rsplit("\\", 1)[0]
    answer = net.box.call("POST", "/users/them/directory", json={"directory": folder})
    answer.raise_for_status()
    names = {f["filename"] for f in answer.json()[0]["files"]}
    assert set(net.them.files) <= names


def test_user_info_and_status(net):
    assert net.box.get("/users/them/status")["presence"] == "Online"
    assert net.box.get("/users/them/endpoint")["address"] == "127.0.0.1"
    assert "uploadSlots" in net.box.get("/users/them/info")
    assert net.box.call("GET", "/users/nobody-here/info").status_code == 404


def test_messages_both_ways(net):
    net.box.call("POST", "/api/messages/them", json={"text": "héllo"}).raise_for_status()
    net.them.event("pm", user="box", message="héllo")
    net.them.ctl(cmd="pm", user="box", message="wörld")
    until("their message is kept", lambda: any(
        m["text"] == "wörld" and m["incoming"] for m in net.box.get("/api/messages/them")))


# ---- Resume: its own network, since processes die here. ----


@pytest.fixture(params=KINDS)
def slow(request):
    world = World()
    world.kind = request.param
    try:
        yield world
    finally:
        world.close(request.session.testsfailed)


def begin(world):
    """Starts the big download and waits until a good part is there."""
    path, size = remote(world, "mix")
    world.box.enqueue("them", [(path, size)])
    until("part of it is here", lambda: (world.box.download_of("them", path) or {}).get("bytesTransferred", 0) > 20 << 20)
    return path


def check_resumed(world, path):
    done = until("it is finished", lambda: world.box.finished("them", path))
    assert done["startOffset"] > 10 << 20, done
    folder, name = path.rsplit("\\", 2)[1:]
    assert sha256(world.box.downloads / folder / name) == sha256(original(world.them, "mix"))


def test_resume_after_our_death(slow):
    slow.them = Peer(slow, slow.kind, "them", free_port(), "--upload-limit-kib", "8000")
    slow.box = Node(slow)
    path = begin(slow)
    slow.box.process.stop(signal.SIGKILL)
    slow.box.start()
    check_resumed(slow, path)


def test_resume_after_their_death(slow):
    slow.them = Peer(slow, slow.kind, "them", free_port(), "--upload-limit-kib", "8000")
    slow.box = Node(slow)
    path = begin(slow)
    slow.them.process.stop(signal.SIGKILL)
    slow.them.start()
    # aioslsk names its shares anew at every start: the old path is gone, and the file must be found again.
    done = until("it is finished", lambda: next(
        (t for t in slow.box.transfers("downloads", "them") if t["state"] == "Completed, Succeeded"), None))
    folder, name = done["filename"].rsplit("\\", 2)[1:]
    assert sha256(slow.box.downloads / folder / name) == sha256(original(slow.them, "mix"))
    if slow.kind == "nicotine":
        assert done["startOffset"] > 10 << 20, done


@pytest.mark.parametrize("slow", ["nicotine"], indirect=True)
def test_a_finished_file_waits_for_the_disk_it_belongs_on(slow):
    """Its disk is not plugged in when the box starts. It comes up, fetches, and needs nobody once the disk is there."""
    disk = slow.tmp / "disk"
    slow.them = Peer(slow, slow.kind, "them", free_port())
    slow.box = Node(slow, directories__downloads=disk / "Downloads")
    slow.box.downloads = disk / "Downloads"
    told = slow.box.get("/api/status")["warnings"]
    assert any(f"{disk}/Downloads cannot be used" in warning for warning in told), told
    path, size = remote(slow, "song")
    slow.box.enqueue("them", [(path, size)])
    until("it waits", lambda: "downloads folder cannot be used" in ((slow.box.download_of("them", path) or {}).get("exception") or ""))
    assert not disk.exists(), "nothing is put where the disk will be"
    slow.them.process.stop()
    slow.box.process.stop()
    slow.box.start()
    until("it waits again", lambda: "downloads folder cannot be used" in ((slow.box.download_of("them", path) or {}).get("exception") or ""))
    disk.mkdir()
    until("it is in its place", lambda: slow.box.finished("them", path))
    folder, name = path.rsplit("\\", 2)[1:]
    assert sha256(slow.box.downloads / folder / name) == sha256(original(slow.them, "song"))
    until("the warning goes", lambda: not any("cannot be used" in warning for warning in slow.box.get("/api/status")["warnings"]))
