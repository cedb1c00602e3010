"""What slskd's clients send and expect on the wire, request by request (ECOSYSTEM-FACTS 2.1 to 2.3), over raw HTTP."""
import base64
import re
import time
import types
import typing
import uuid

import pytest
import requests
from slskd_api.apis import _types as slskd

from house import KEYS, PASSWORD, USER, files_of, neighbours
from world import sha256, until

THEM = "peer one/slash"
QUOTED = "peer%20one%2Fslash"
FILE = {"id", "username", "direction", "filename", "size", "startOffset", "state", "stateDescription", "requestedAt",
        "enqueuedAt", "startedAt", "endedAt", "bytesTransferred", "averageSpeed", "bytesRemaining", "elapsedTime",
        "percentComplete", "remainingTime", "placeInQueue", "exception", "attempts", "nextAttemptAt", "removed", "batchId"}
STATES = re.compile(r"Requested|Queued, (Locally|Remotely)|Initializing|InProgress|"
                    r"Completed, (Succeeded|Cancelled|TimedOut|Errored|Rejected|Aborted)")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
SPAN = re.compile(r"(\d+\.)?\d\d:\d\d:\d\d\.\d{7}")


@pytest.fixture(scope="module")
def net():
    for world in neighbours(THEM, big_mib=2):
        world.http = Http(world.box.url)
        yield world


class Http:
    """Requests as written here: nothing tidies the path, nothing is added."""

    def __init__(self, url):
        self.url, self.session = url, requests.Session()
        self.session.headers["X-API-Key"] = KEYS["readwrite"]

    def __call__(self, method, path, **kw):
        request = self.session.prepare_request(requests.Request(method, self.url, **kw))
        request.url = f"{self.url}/api/v0{path}"
        answer = self.session.send(request, timeout=150)
        if "json" in answer.headers.get("Content-Type", "") and answer.ok:
            no_nulls(answer.json(), path)
        return answer

    def get(self, path):
        answer = self("GET", path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.json()


def no_nulls(value, where):
    """Keys without a value are left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            assert inner is not None, f"{where}: {key} is null"
            no_nulls(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for inner in value:
            no_nulls(inner, where)


def check(value, kind, where=""):
    """The value is of this type, where the library describes one."""
    origin = typing.get_origin(kind)
    if origin in (typing.Required, typing.NotRequired):
        check(value, typing.get_args(kind)[0], where)
    elif origin is typing.Literal:
        assert value in typing.get_args(kind), (where, value)
    elif origin in (typing.Union, types.UnionType):
        assert any(isinstance(value, a) for a in typing.get_args(kind)), (where, value)
    elif origin is list:
        assert isinstance(value, list), (where, value)
        for inner in value:
            check(inner, typing.get_args(kind)[0], f"{where}[]")
    elif typing.is_typeddict(kind):
        assert isinstance(value, dict), (where, value)
        for key, inner in typing.get_type_hints(kind, vars(slskd), include_extras=True).items():
            if key in value:
                check(value[key], inner, f"{where}.{key}")
            else:
                # slskd leaves a missing picture out, though the library says it is there.
                assert typing.get_origin(inner) is typing.NotRequired or key == "picture", f"{where}: {key} is missing"
    elif kind is float:
        assert isinstance(value, (int, float)) and not isinstance(value, bool), (where, value)
    elif kind is int:
        assert isinstance(value, int) and not isinstance(value, bool), (where, value)
    else:
        assert isinstance(value, kind), (where, value)


def search(net, text, **body):
    """Asked again, as people do, when it ended without an answer."""
    ident = None

    def found():
        nonlocal ident
        over = ident is None or net.http.get(f"/searches/{ident}")["isComplete"]
        responses = ident and net.http.get(f"/searches/{ident}/responses")
        if over and not responses:
            answer = net.http("POST", "/searches", json={"searchText": text, "searchTimeout": 5000, **body})
            assert answer.status_code == 200, answer.text
            ident = answer.json()["id"]
        return responses
    return until(f"{text} is found", found), ident


def their(net, word):
    """One of their files, as a search gives it."""
    responses, _ = search(net, f"slash {word}")
    return next(f for f in responses[0]["files"] if word in f["filename"])


def download(net, filename, removed=False):
    """The one download of this name."""
    answer = net.http("GET", f"/transfers/downloads?includeRemoved={removed}")
    found = [f for user in answer.json() for f in files_of(user) if f["filename"] == filename]
    return found[-1] if found else None


def succeeded(net, filename):
    def over():
        d = download(net, filename)
        assert d is None or not d["state"].startswith("Completed") or d["state"] == "Completed, Succeeded", d
        return d if d and d["state"] == "Completed, Succeeded" else None
    return until(f"{filename} is here", over)


def original(net, filename):
    return net.them.files[filename.rsplit("\\", 1)[1]]


def clear(net):
    assert net.http("DELETE", "/transfers/downloads/all/completed").status_code == 204
    until("nothing is left", lambda: net.http.get("/transfers/downloads") == [])


def test_version_is_numbers(net):
    text = net.http("GET", "/application/version").text
    assert re.fullmatch(r'"\d+\.\d+\.\d+\.\d+"', text)
    assert tuple(int(part) for part in text.strip('"').split(".")) >= (0, 26, 0)
    assert net.http.get("/application")["version"]["full"] == text.strip('"')


def test_slashes_too_many(net):
    for path in ("/application", "/options", "/server", "/searches", "/transfers/downloads", "/transfers/uploads", "/shares"):
        want = set(map(str, net.http.get(path)))
        for also in (f"{path}/", f"/{path}", f"{path}//", path.replace("/", "//") + "/?includeRemoved=False"):
            assert set(map(str, net.http.get(also))) == want, also


def test_booleans_of_python(net):
    responses, ident = search(net, "slash song")
    for yes in ("True", "true", "TRUE"):
        assert net.http.get(f"/searches/{ident}?includeResponses={yes}")["responses"] == responses
        assert net.http.get(f"/searches/{ident}?IncludeResponses={yes}")["responses"] == responses
    for no in ("False", "false", "FALSE"):
        assert net.http.get(f"/searches/{ident}?includeResponses={no}")["responses"] == []


def test_search_by_pascal_case_and_uuid1(net):
    ident = str(uuid.uuid1())
    answer = net.http("POST", "/searches", json={
        "Id": ident, "FileLimit": 10000, "FilterResponses": True, "MaximumPeerQueueLength": 1000000,
        "MinimumPeerUploadSpeed": 0, "MinimumResponseFileCount": 1, "ResponseLimit": 100, "SearchText": "slash song",
        "SearchTimeout": 15000, "SomethingNew": {"Deep": None}})
    assert answer.status_code == 200 and answer.json()["id"] == ident
    check(answer.json(), slskd.SearchState, "search")
    assert answer.json()["state"] == "InProgress" and not answer.json()["isComplete"]
    responses = until("it is found", lambda: net.http.get(f"/searches/{ident}/responses"))
    check(responses, list[slskd.SearchResponseItem], "responses")
    assert responses[0]["username"] == THEM and responses[0]["uploadSpeed"] >= 0
    file = responses[0]["files"][0]
    assert file["filename"].count("\\") >= 2 and file["extension"] == "flac"
    # The same id again is refused, and the first search is untouched.
    again = net.http("POST", "/searches", json={"id": ident, "searchText": "slash mix"})
    assert again.status_code == 409
    assert net.http.get(f"/searches/{ident}")["searchText"] == "slash song"
    over = until("it is over", lambda: (s := net.http.get(f"/searches/{ident}?includeResponses=true"))["isComplete"] and s)
    check(over, slskd.SearchState, "search")
    assert over["state"].startswith("Completed, ") and TIME.fullmatch(over["endedAt"])
    check(net.http.get("/searches"), list[slskd.SearchState], "searches")
    assert net.http("DELETE", f"/searches/{ident}").status_code == 204
    assert net.http("DELETE", f"/searches/{ident}").status_code == 404
    assert net.http("PUT", f"/searches/{ident}").status_code == 404


def test_search_limits_and_filters(net):
    responses, _ = search(net, "slash", fileLimit=1)
    assert len(responses) == 1
    ident = net.http("POST", "/searches", json={
        "searchText": "slash", "searchTimeout": 5000, "minimumResponseFileCount": 4}).json()["id"]
    until("it is over", lambda: net.http.get(f"/searches/{ident}")["isComplete"])
    assert net.http.get(f"/searches/{ident}/responses") == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"searchText": ""}', b'{"searchText": 7}',
                                  b'{"searchText": "x", "id": "not-a-uuid"}', b'\xff\xfe'])
def test_bad_search(net, body):
    answer = net.http("POST", "/searches", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.text


def test_names_are_decoded_by_segment(net):
    assert net.http.get(f"/users/{QUOTED}/status") == {"presence": "Online", "isPrivileged": False}
    check(net.http.get(f"/users/{QUOTED}/endpoint"), slskd.UserAddress, "endpoint")
    check(net.http.get(f"/users/{QUOTED}/info"), slskd.UserInfo, "info")
    tree = net.http.get(f"/users/{QUOTED}/browse")
    check(tree, slskd.UserRootDir, "browse")
    assert tree["directoryCount"] == len(tree["directories"])
    folder = next(d["name"] for d in tree["directories"] if d["files"])
    for body in ({"directory": folder}, {"Directory": folder}):
        listing = net.http("POST", f"/users/{QUOTED}/directory", json=body)
        check(listing.json(), list[slskd.UserDirectory], "directory")
        assert {f["filename"] for f in listing.json()[0]["files"]} == set(net.them.files)


def test_nothing_of_theirs_is_404(net):
    for path in (f"/transfers/downloads/{QUOTED}", "/transfers/downloads/nobody", "/transfers/uploads/nobody",
                 f"/transfers/downloads/{QUOTED}/{uuid.uuid4()}", f"/transfers/downloads/{QUOTED}/{uuid.uuid4()}/position",
                 f"/searches/{uuid.uuid4()}", f"/searches/{uuid.uuid4()}/responses", f"/transfers/downloads/batches/{uuid.uuid4()}"):
        assert net.http("GET", path).status_code == 404, path
    assert net.http("DELETE", f"/transfers/downloads/{QUOTED}/{uuid.uuid4()}?remove=True").status_code == 404
    # Lists of everything are empty instead.
    assert net.http.get("/transfers/downloads/") == [] and net.http.get("/transfers/downloads/batches/") == []


def test_enqueue_to_finished_file(net):
    wanted = their(net, "Fjörd")
    body = [{**wanted, "attributes": [{"type": "BitRate", "value": 1}], "fullPath": None, "place": {"x": [1]}}]
    answer = net.http("POST", f"/transfers/downloads/{QUOTED}", json=body)
    assert answer.status_code == 201, answer.text
    asked = time.monotonic()
    assert {f["filename"] for f in answer.json()["enqueued"]} == {wanted["filename"]} and answer.json()["failed"] == []
    row = until("the download is listed", lambda: download(net, wanted["filename"]), 5)
    assert time.monotonic() - asked < 5
    assert set(row) <= FILE and STATES.fullmatch(row["state"]) and row["direction"] == "Download"

    done = succeeded(net, wanted["filename"])
    check(done, slskd.TransferedFile, "download")
    assert done["size"] == done["bytesTransferred"] == wanted["size"] == 700_001
    assert done["bytesRemaining"] == 0 and done["percentComplete"] == 100 and done["attempts"] == 1
    assert done["removed"] is False and done["username"] == THEM and "exception" not in done
    for key in ("requestedAt", "enqueuedAt", "startedAt", "endedAt"):
        assert TIME.fullmatch(done[key]), (key, done[key])
    assert SPAN.fullmatch(done["elapsedTime"]) and "remainingTime" not in done
    # Bytes per second: what it took, by its own clock, within a factor that knows nothing of kilobits or mebibytes.
    h, m, s = done["elapsedTime"].split(":")
    rate = done["size"] / max(int(h) * 3600 + int(m) * 60 + float(s), 0.001)
    assert rate / 100 < done["averageSpeed"] < rate * 100

    folder, name = wanted["filename"].rsplit("\\", 2)[1:]
    assert sha256(net.box.downloads / folder / name) == sha256(original(net, wanted["filename"]))
    listing = net.http.get(f"/transfers/downloads/{QUOTED}")
    check(listing, slskd.Transfer, "downloads")
    assert listing["username"] == THEM
    assert listing["directories"][0]["directory"] == wanted["filename"].rsplit("\\", 1)[0]
    assert listing["directories"][0]["fileCount"] == 1
    assert net.http.get(f"/transfers/downloads/{QUOTED}/{done['id']}") == done
    check(net.http.get("/transfers/downloads/?includeRemoved=False"), list[slskd.Transfer], "all downloads")

    # The way of Tubifarry: off, then away. The file stays.
    path = f"/transfers/downloads/{QUOTED}/{done['id']}"
    assert net.http("DELETE", path).status_code == 204
    assert net.http("DELETE", f"{path}?remove=True").status_code == 204
    assert net.http("DELETE", f"{path}?remove=true").status_code == 204
    assert download(net, wanted["filename"]) is None
    assert download(net, wanted["filename"], removed=True)["removed"] is True
    assert (net.box.downloads / folder / name).exists()
    assert net.http("GET", f"/transfers/downloads/{QUOTED}").status_code == 404


def test_enqueue_refused(net):
    wanted = their(net, "song")
    assert net.http("POST", "/transfers/downloads/nobody", json=[wanted]).status_code == 404
    for body in ([], [{"size": 5}], {"filename": "a\\b"}, "text", [{"filename": "a\\b", "size": -5}], [{"filename": ""}]):
        answer = net.http("POST", f"/transfers/downloads/{QUOTED}", json=body)
        assert answer.status_code == 400 and answer.text, body
    assert net.http.get("/transfers/downloads") == []


def test_missing_file_fails_with_a_reason(net):
    path = their(net, "song")["filename"] + ".gone.flac"
    assert net.http("POST", f"/transfers/downloads/{QUOTED}", json=[{"Filename": path, "Size": 5}]).status_code == 201
    row = until("it is refused", lambda: (d := download(net, path)) and d["state"].startswith("Completed") and d)
    assert row["state"] in ("Completed, Rejected", "Completed, Errored") and row["exception"]
    check(row, slskd.TransferedFile, "download")
    assert row["percentComplete"] == 0 and row["bytesRemaining"] == 5
    clear(net)


def test_batches(net):
    song, mix = their(net, "song"), their(net, "mix")
    ident, searched = str(uuid.uuid4()), str(uuid.uuid4())
    answer = net.http("POST", "/transfers/downloads/batches/", json={
        "Id": ident, "SearchId": searched, "Username": THEM, "Files": [{"Filename": song["filename"], "Size": song["size"]}],
        "Options": {"Destination": "Artist - Album", "ExternalId": "lidarr-7"}})
    assert answer.status_code == 201, answer.text
    batch, failures = answer.json()["batch"], answer.json()["failures"]
    assert failures == [] and (batch["id"], batch["username"], batch["searchId"]) == (ident, THEM, searched)
    assert batch["options"] == {"destination": "Artist - Album", "externalId": "lidarr-7"}
    first = batch["transfers"][0]
    assert (first["filename"], first["batchId"]) == (song["filename"], ident)

    # The same id again: 409, and nothing new.
    again = net.http("POST", "/transfers/downloads/batches", json={"id": ident, "username": THEM, "files": [mix]})
    assert again.status_code == 409
    succeeded(net, song["filename"])
    name = song["filename"].rsplit("\\", 1)[1]
    assert sha256(net.box.downloads / "Artist - Album" / name) == sha256(original(net, song["filename"]))
    assert download(net, mix["filename"]) is None

    # Some: one of the two names no file. None: that one alone.
    nameless = {"filename": "", "size": 1}
    answer = net.http("POST", "/transfers/downloads/batches", json={
        "username": THEM, "files": [mix, nameless], "options": None, "searchId": None, "id": None})
    assert answer.status_code == 207, answer.text
    assert [f["filename"] for f in answer.json()["failures"]] == [""] and answer.json()["failures"][0]["message"]
    second = answer.json()["batch"]["id"]
    answer = net.http("POST", "/transfers/downloads/batches", json={"username": THEM, "files": [nameless]})
    assert answer.status_code == 200 and len(answer.json()["failures"]) == 1
    succeeded(net, mix["filename"])

    got = net.http.get(f"/transfers/downloads/batches/{ident}")
    assert got["transfers"][0]["state"] == "Completed, Succeeded" and got["options"] == batch["options"]
    listed = [b["id"] for b in net.http.get("/transfers/downloads/batches/")]
    assert ident in listed and second in listed

    answer = net.http("POST", "/transfers/downloads/batches", json={"username": "nobody", "files": [song]})
    assert answer.status_code == 404
    for bad in ({"username": THEM}, {"username": THEM, "files": []}, {"files": [song]}, {"username": THEM, "files": [song], "id": "x"}):
        assert net.http("POST", "/transfers/downloads/batches", json=bad).status_code == 400, bad
    clear(net)


def test_uploads_have_the_same_shape(net):
    name, path = next((n, p) for n, p in net.box.files.items() if "Fjörd" in n)
    contents = net.http.get("/shares/contents")
    check(contents, list[slskd.UserDirectory], "contents")
    folder = next(d["name"] for d in contents if d["files"])
    net.them.fetch("box", f"{folder}\\{name}", path.stat().st_size, path)
    row = until("the upload is over", lambda: next((
        f for user in net.http.get("/transfers/uploads/?includeRemoved=False") for f in files_of(user)
        if f["state"] == "Completed, Succeeded"), None))
    check(row, slskd.TransferedFile, "upload")
    assert set(row) <= FILE and row["direction"] == "Upload" and row["username"] == THEM
    assert row["bytesTransferred"] == row["size"] == 700_001 and row["percentComplete"] == 100
    check(net.http.get(f"/transfers/uploads/{QUOTED}"), slskd.Transfer, "uploads")
    assert net.http.get(f"/transfers/uploads/{QUOTED}/{row['id']}") == row
    # An upload is not to be found among the downloads, nor may it be called off there.
    assert net.http("GET", f"/transfers/downloads/{QUOTED}/{row['id']}").status_code == 404
    assert net.http("DELETE", f"/transfers/downloads/{QUOTED}/{row['id']}").status_code == 404
    assert net.http("DELETE", "/transfers/uploads/all/completed").status_code == 204
    assert net.http("GET", f"/transfers/uploads/{QUOTED}").status_code == 404


def test_state_and_options(net):
    state = net.http.get("/application/")
    check(state, slskd.AppState, "application")
    # Tubifarry looks for the word, Home Assistant for the flag.
    assert "Connected" in state["server"]["state"] and state["server"]["isConnected"] is True
    for key in ("scanPending", "scanning", "ready", "faulted", "cancelled", "scanProgress", "directories", "files"):
        assert key in state["shares"]
    for key in ("connectionWatchdog", "vpn", "relay", "health"):
        assert isinstance(state[key], dict)
    check(net.http.get("/server"), slskd.ServerState, "server")
    check(net.http.get("/shares"), slskd.Shares, "shares")
    check(net.http.get("/logs"), list[slskd.LogEntry], "logs")
    check(net.http.get("/application/version/latest?forceCheck=False"), slskd.AppVersion, "version")
    options = net.http.get("/options/")
    assert options["directories"]["downloads"] == str(net.box.downloads)
    assert options["directories"]["incomplete"] == str(net.box.home / "incomplete")
    assert options["soulseek"]["username"] == "box" and options["remoteFileManagement"] is False
    text = str(options)
    assert PASSWORD not in text and not any(key in text for key in KEYS.values())


def test_session_by_hand(net):
    login = requests.post(f"{net.box.url}/api/v0/session", json={"Username": USER, "Password": PASSWORD})
    check(login.json(), slskd.SessionStatus, "session")
    assert login.json()["tokenType"] == "Bearer" and login.json()["expires"] > login.json()["issued"] >= login.json()["notBefore"]
    bearer = {"Authorization": f"bearer {login.json()['token']}"}
    assert requests.get(f"{net.box.url}/api/v0/session", headers=bearer).status_code == 200
    assert requests.get(f"{net.box.url}/api/v0/session/enabled").json() is True
    assert requests.get(f"{net.box.url}/health").status_code == 200
    for path in ("/session", "/server", "/searches", "/transfers/downloads", "/options", "/no-such-thing"):
        assert requests.get(f"{net.box.url}/api/v0{path}").status_code == 401, path


def test_what_is_not_there(net):
    """404 or 501 for what we do not have, whatever is sent; never a fault of ours."""
    for method, path in [
        ("GET", "/rooms/joined"), ("POST", "/rooms/joined"), ("GET", "/rooms/available"), ("GET", "/conversations"),
        ("POST", f"/conversations/{QUOTED}"), ("PUT", "/relay/agent"), ("GET", "/relay/controller/downloads/x"),
        ("GET", "/options/yaml"), ("PUT", "/options/yaml"), ("POST", "/options/yaml/validate"), ("GET", "/options/debug"),
        ("POST", "/hub/application/negotiate"), ("GET", "/hub/transfers"),
        # Base64 as Python wraps it, with its newline.
        ("DELETE", "/files/downloads/directories/" + base64.encodebytes(b"folder").decode().replace("\n", "%0A")),
    ]:
        assert net.http(method, path, json="text").status_code in (404, 501), (method, path)


def test_disconnect_with_a_string_as_body(net):
    """As Home Assistant switches it off and on."""
    answer = net.http("DELETE", "/server", data=b'""', headers={"Content-Type": "application/json"})
    assert answer.status_code == 204
    state = until("it is off", lambda: (s := net.http.get("/server")) and s["state"] == "Disconnected" and s)
    assert state["isConnected"] is False and state["isLoggedIn"] is False and state["isTransitioning"] is False
    assert net.http("PUT", "/server").status_code == 200
    until("it is on", lambda: net.http.get("/server")["isLoggedIn"])
    # A message in the body is taken as well.
    assert net.http("DELETE", "/server", json="good night").status_code == 204
    assert net.http("PUT", "/server/", json="").status_code == 200
    until("it is on again", lambda: net.http.get("/server")["isLoggedIn"])


def test_tubifarry(net):
    """The requests of the Lidarr plugin, in its order."""
    assert "Connected" in net.http.get("/application")["server"]["state"]
    assert net.http.get("/options")["directories"]["downloads"] == str(net.box.downloads)
    ident = str(uuid.uuid4())
    answer = net.http("POST", "/searches", json={"Id": ident, "SearchText": "slash song", "SearchTimeout": 15000,
                                                 "FileLimit": 10000, "FilterResponses": True, "MaximumPeerQueueLength": 1000000,
                                                 "MinimumPeerUploadSpeed": 0, "MinimumResponseFileCount": 1, "ResponseLimit": 100})
    assert answer.ok
    over = until("the search is over", lambda: (s := net.http.get(f"/searches/{ident}?includeResponses=true"))["isComplete"] and s)
    file = over["responses"][0]["files"][0]
    folder = file["filename"].rsplit("\\", 1)[0]
    listing = net.http("POST", f"/users/{QUOTED}/directory", json={"Directory": folder}).json()
    assert file["filename"].rsplit("\\", 1)[1] in {f["filename"] for f in listing[0]["files"]}
    answer = net.http("POST", f"/transfers/downloads/{QUOTED}", json=[{"Filename": file["filename"], "Size": file["size"]}])
    assert answer.status_code == 201
    succeeded(net, file["filename"])
    row = next(f for user in net.http.get("/transfers/downloads/") if user["username"] == THEM for f in files_of(user)
               if f["filename"] == file["filename"])
    here = net.box.downloads / folder.rsplit("\\", 1)[-1] / file["filename"].rsplit("\\", 1)[1]
    assert sha256(here) == sha256(original(net, file["filename"]))
    assert net.http("DELETE", f"/transfers/downloads/{QUOTED}/{row['id']}").status_code == 204
    assert net.http("DELETE", f"/transfers/downloads/{QUOTED}/{row['id']}?remove=true").status_code == 204
    assert net.http("DELETE", f"/searches/{ident}").status_code == 204
