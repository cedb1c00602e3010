"""slskd-api, unchanged, against our daemon: run once with 0.1.5 and once with 0.2.4, each by its own venv's python.

Every method of the library is either called here with success, or is of a kind we do not have and says so with 404,
405 or 501; the last test counts.
"""
import importlib.metadata
import inspect
import uuid

import pytest
import requests
import slskd_api

from house import FAR_KEY, KEYS, PASSWORD, USER, Box, files_of, neighbours
from world import sha256, until

VERSION = importlib.metadata.version("slskd-api")
# What the library offers and we have. Everything else must be refused.
OURS = {
    "application": {"state", "version", "check_updates", "stop"},
    "logs": {"get"},
    "options": {"get"},
    "searches": {"search_text", "get_all", "state", "stop", "delete", "search_responses"},
    "server": {"connect", "disconnect", "state"},
    "session": {"auth_valid", "login", "security_enabled"},
    "shares": {"get_all", "start_scan", "cancel_scan", "get", "all_contents", "contents"},
    "transfers": {"cancel_download", "get_download", "remove_completed_downloads", "cancel_upload", "get_upload",
                  "remove_completed_uploads", "enqueue", "get_downloads", "get_all_downloads", "get_queue_position",
                  "get_all_uploads", "get_uploads"},
    "users": {"address", "browse", "directory", "info", "status"},
}
if not VERSION.startswith("0.1."):
    OURS["telemetry"] = {"get_metrics"}
# A share list is fetched while its request waits: the library's own words for "404 once that is over".
SAYS_404 = {("users", "browsing_status")}
called = set()


def parts(client):
    """The parts of a client (`transfers`, `users`, …) by name."""
    return {name: part for name, part in vars(client).items() if hasattr(part, "api_url")}


def methods(part):
    return {name: method for name, method in inspect.getmembers(part, inspect.ismethod) if not name.startswith("_")}


def counted(client):
    """The client, with every successful call noted."""
    def note(part, name, method):
        def call(*args, **kw):
            answer = method(*args, **kw)
            called.add((part, name))
            return answer
        return call
    for part_name, part in parts(client).items():
        for name, method in methods(part).items():
            setattr(part, name, note(part_name, name, method))
    return client


@pytest.fixture(scope="module")
def net():
    # Slow both ways, and one upload at a time, so that there is something to cancel and a queue to stand in.
    yield from neighbours(big_mib=40, peer=("--upload-limit-kib", "1000", "--upload-slots", "1"),
                          global__upload__speed_limit=1000)


@pytest.fixture(scope="module")
def slskd(net):
    return counted(slskd_api.SlskdClient(net.box.url, KEYS["readwrite"], "/", timeout=150))


def refused(status, call, *args, **kw):
    with pytest.raises(requests.HTTPError) as error:
        call(*args, **kw)
    assert error.value.response.status_code == status, error.value.response.text


def search(slskd, text, **kw):
    """Asked again, as people do, when it ended without an answer."""
    ident = None

    def found():
        nonlocal ident
        over = ident is None or slskd.searches.state(ident)["isComplete"]
        responses = ident and slskd.searches.search_responses(ident)
        if over and not responses:
            if ident:
                # Its id may be the one that is wished for.
                slskd.searches.delete(ident)
            ident = slskd.searches.search_text(searchText=text, searchTimeout=5000, **kw)["id"]
        return responses
    return until(f"{text} is found", found), ident


def file_named(responses, word):
    return next(f for f in responses[0]["files"] if word in f["filename"])


def state_of(slskd, user, ident):
    return slskd.transfers.get_download(user, ident)["state"]


def test_application(net, slskd):
    state = slskd.application.state()
    assert state["server"]["state"] == "Connected, LoggedIn" and state["user"]["username"] == "box"
    assert state["shares"]["files"] == len(net.box.files) and state["shares"]["ready"]
    version = slskd.application.version()
    # The way soularr and a Lidarr plugin read it.
    assert tuple(int(part) for part in version.split(".")[:3]) >= (0, 26, 0)
    assert slskd.application.check_updates(forceCheck=True)["isUpdateAvailable"] is False


def test_options_and_logs(net, slskd):
    options = slskd.options.get()
    assert options["directories"]["downloads"] == str(net.box.downloads)
    assert options["soulseek"]["username"] == "box"
    assert "pw" not in options["soulseek"].values() and PASSWORD not in str(options)
    lines = slskd.logs.get()
    assert lines and set(lines[0]) == {"timestamp", "context", "level", "message"}


def test_search(net, slskd):
    ident = str(uuid.uuid1())
    responses, given = search(slskd, "them song", id=ident)
    assert given == ident
    assert responses[0]["username"] == "them"
    assert responses[0]["files"][0]["size"] == 2_000_003
    state = slskd.searches.state(ident, includeResponses=True)
    assert state["responses"] == responses and state["fileCount"] == 1
    assert slskd.searches.state(ident)["responses"] == []
    assert ident in [s["id"] for s in slskd.searches.get_all()]
    assert slskd.searches.stop(ident)
    until("the search is over", lambda: slskd.searches.state(ident)["isComplete"])
    assert slskd.searches.state(ident)["state"].startswith("Completed")
    # Its answers outlive it.
    assert slskd.searches.search_responses(ident) == responses
    assert slskd.searches.delete(ident)
    refused(404, slskd.searches.state, ident)


def test_users(net, slskd):
    assert slskd.users.address("them") == {"addressFamily": "InterNetwork", "address": "127.0.0.1", "port": net.them.port}
    assert slskd.users.status("them") == {"presence": "Online", "isPrivileged": False}
    assert slskd.users.info("them")["uploadSlots"] == 1
    tree = slskd.users.browse("them")
    folder = next(d for d in tree["directories"] if d["files"])
    assert {f["filename"] for f in folder["files"]} == set(net.them.files)
    listing = slskd.users.directory("them", folder["name"])
    listing = listing[0] if isinstance(listing, list) else listing
    assert {(f["filename"], f["size"]) for f in listing["files"]} == {
        (name, path.stat().st_size) for name, path in net.them.files.items()}
    for method in (slskd.users.address, slskd.users.info, slskd.users.browse, slskd.users.browsing_status):
        refused(404, method, "nobody-here")
    refused(404, slskd.users.directory, "nobody-here", "Music")


def test_downloads(net, slskd):
    responses, _ = search(slskd, "them")
    mix, song, fjord = (file_named(responses, word) for word in ("mix", "song", "Fjörd"))
    refused(404, slskd.transfers.get_downloads, "them")
    # The files as the search gave them, with all their other keys.
    assert slskd.transfers.enqueue("them", [mix])
    listing = slskd.transfers.get_downloads("them")
    assert listing["username"] == "them" and listing["directories"][0]["fileCount"] == 1
    first = files_of(listing)[0]["id"]
    until("the first is under way", lambda: state_of(slskd, "them", first) == "InProgress")
    assert slskd.transfers.enqueue("them", [song, fjord])
    ids = {f["filename"]: f["id"] for f in files_of(slskd.transfers.get_downloads("them"))}
    assert set(ids) == {mix["filename"], song["filename"], fjord["filename"]}
    last = ids[fjord["filename"]]
    until("the last waits there", lambda: state_of(slskd, "them", last) == "Queued, Remotely")
    # Nicotine+ counts the one under way, and may know of only one of the two yet.
    assert slskd.transfers.get_queue_position("them", last) in (1, 2, 3)

    # The one under way is called off, which makes room for the others.
    assert slskd.transfers.cancel_download("them", first)
    until("it is cancelled", lambda: state_of(slskd, "them", first) == "Completed, Cancelled")
    for name in (song["filename"], fjord["filename"]):
        until(f"{name} is here", lambda: state_of(slskd, "them", ids[name]) == "Completed, Succeeded")
        folder, base = name.rsplit("\\", 2)[1:]
        assert sha256(net.box.downloads / folder / base) == sha256(net.them.files[base])

    assert slskd.transfers.cancel_download("them", first, remove=True)
    everything = slskd.transfers.get_all_downloads()
    assert first not in {f["id"] for user in everything for f in files_of(user)}
    everything = slskd.transfers.get_all_downloads(includeRemoved=True)
    assert first in {f["id"] for user in everything for f in files_of(user)}
    assert slskd.transfers.remove_completed_downloads()
    refused(404, slskd.transfers.get_downloads, "them")
    refused(404, slskd.transfers.get_download, "them", str(uuid.uuid4()))
    refused(404, slskd.transfers.enqueue, "nobody-here", [song])


def test_uploads(net, slskd):
    net.them.ctl(cmd="search", query="box mix")
    path = net.them.event("results", user="box")["files"][0]["path"]
    refused(404, slskd.transfers.get_uploads, "them")

    def upload():
        found = [f for user in slskd.transfers.get_all_uploads() for f in files_of(user) if f["filename"] == path]
        return next((f for f in found if f["state"] == "InProgress"), None)

    net.them.ctl(cmd="download", user="box", path=path, size=40 << 20)
    first = until("the upload is under way", upload)["id"]
    assert slskd.transfers.get_upload("them", first)["direction"] == "Upload"
    assert slskd.transfers.cancel_upload("them", first)
    until("it is cancelled", lambda: slskd.transfers.get_upload("them", first)["state"] == "Completed, Cancelled")
    assert slskd.transfers.cancel_upload("them", first, remove=True)

    folder = path.rsplit("\\", 1)[0]
    name = next(n for n in net.box.files if "Fjörd" in n)
    net.them.fetch("box", f"{folder}\\{name}", net.box.files[name].stat().st_size, net.box.files[name])
    until("the upload is over", lambda: any(
        f["filename"].endswith(name) and f["state"] == "Completed, Succeeded"
        for f in files_of(slskd.transfers.get_uploads("them"))))
    assert first not in {f["id"] for f in files_of(slskd.transfers.get_uploads("them"))}
    assert first in {f["id"] for user in slskd.transfers.get_all_uploads(includeRemoved=True) for f in files_of(user)}
    assert slskd.transfers.remove_completed_uploads()
    refused(404, slskd.transfers.get_uploads, "them")


def test_shares(net, slskd):
    share = slskd.shares.get_all()["local"][0]
    assert share["localPath"] == str(net.box.share) and share["files"] == len(net.box.files)
    assert slskd.shares.get(share["id"]) == share
    contents = slskd.shares.contents(share["id"])
    assert {f["filename"] for d in contents for f in d["files"]} == set(net.box.files)
    assert slskd.shares.all_contents() == contents
    assert slskd.shares.start_scan()
    until("the scan is over", lambda: not slskd.application.state()["shares"]["scanning"])
    assert slskd.shares.cancel_scan()
    refused(404, slskd.shares.get, "no-such-share")


def test_session(net, slskd):
    assert slskd.session.auth_valid() is True
    assert slskd.session.security_enabled() is True
    session = slskd.session.login(USER, PASSWORD)
    assert session["tokenType"] == "Bearer" and session["name"] == USER
    assert session["expires"] - session["issued"] == 7 * 24 * 3600
    for way in (dict(username=USER, password=PASSWORD), dict(token=session["token"])):
        client = slskd_api.SlskdClient(net.box.url, **way)
        assert client.session.auth_valid() and client.server.state()["isLoggedIn"]
        assert client.searches.get_all() is not None
    for wrong in (dict(api_key="not-a-key-0123456789"), dict(api_key=FAR_KEY), dict(token=session["token"][:-2] + "xx")):
        client = slskd_api.SlskdClient(net.box.url, **wrong)
        refused(401, client.session.auth_valid)
        refused(401, client.application.state)
        assert client.session.security_enabled() is True
    refused(401, slskd_api.SlskdClient, net.box.url, username="someone", password=PASSWORD)


def test_roles(net):
    reader = slskd_api.SlskdClient(net.box.url, KEYS["readonly"])
    assert reader.server.state()["isLoggedIn"]
    refused(403, reader.searches.search_text, "them")
    refused(403, reader.transfers.enqueue, "them", [{"filename": "a\\b", "size": 1}])
    refused(403, reader.server.disconnect)
    # Stopping the program is for the owner: no key will do.
    for key in KEYS.values():
        refused(403, slskd_api.SlskdClient(net.box.url, key).application.stop)


def test_server(net, slskd):
    assert slskd.server.disconnect()
    until("it is disconnected", lambda: slskd.server.state()["state"] == "Disconnected")
    assert not slskd.server.state()["isConnected"]
    refused(409, slskd.users.status, "them")
    assert slskd.server.connect()
    until("it is connected", lambda: slskd.server.state()["isLoggedIn"])
    assert slskd.server.state()["state"] == "Connected, LoggedIn"


@pytest.mark.skipif(VERSION.startswith("0.1."), reason="0.1.5 has no telemetry")
def test_telemetry(net, slskd):
    assert "slskdn_" in slskd.telemetry.get_metrics()


def test_stop(net):
    box = Box(net, "short")
    client = counted(slskd_api.SlskdClient(box.url, username=USER, password=PASSWORD))
    assert client.application.stop()
    until("it ended", lambda: not box.process.alive())
    assert box.process.process.returncode == 0


def dummy(parameter):
    return 1 if parameter.name == "id" else "1"


def test_what_we_do_not_have(net):
    """By key and by password: some of these are for the owner only."""
    for client in (slskd_api.SlskdClient(net.box.url, KEYS["administrator"]),
                   slskd_api.SlskdClient(net.box.url, username=USER, password=PASSWORD)):
        wrong = []
        for part_name, part in parts(client).items():
            for name, method in methods(part).items():
                if name in OURS.get(part_name, ()):
                    continue
                needed = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
                try:
                    answer = method(*map(dummy, needed))
                    wrong.append((part_name, name, answer))
                except requests.HTTPError as error:
                    if error.response.status_code not in (404, 405, 501):
                        wrong.append((part_name, name, error.response.status_code))
        assert wrong == []


def test_every_method_was_called(slskd):
    """The last one: needs the whole module to have run."""
    offered = {(part, name) for part, found in parts(slskd).items() for name in OURS.get(part, ()) if hasattr(found, name)}
    assert {(part, name) for part, names in OURS.items() for name in names} == offered
    assert offered - called == set()
