"""soularr's requests in its order, through the slskd-api it pins (0.1.5). soularr itself is not on PyPI; this is its
sequence as ECOSYSTEM-FACTS 2.1 has it: search, look into the folder, enqueue, find the ids, wait, clear."""
import importlib.metadata
import ntpath

import pytest
import slskd_api

from house import KEYS, files_of, neighbours
from world import sha256, until


@pytest.fixture(scope="module")
def net():
    yield from neighbours(big_mib=2)


def test_an_album(net):
    assert importlib.metadata.version("slskd-api") == "0.1.5"
    slskd = slskd_api.SlskdClient(host=net.box.url, api_key=KEYS["readwrite"], url_base="/")
    version = tuple(int(part) for part in slskd.application.version().split(".")[:3])
    assert version > (0, 22, 2)

    search = slskd.searches.search_text(searchText="them song", searchTimeout=15000, filterResponses=True,
                                        maximumPeerQueueLength=50, minimumPeerUploadSpeed=0)
    until("the search ended", lambda: slskd.searches.state(search["id"], False)["state"] != "InProgress")
    result = slskd.searches.search_responses(search["id"])[0]
    file = result["files"][0]
    assert {"filename", "size"} <= set(file)
    # It takes `\` for the separator on every system.
    folder = ntpath.dirname(file["filename"])
    directory = slskd.users.directory(username=result["username"], directory=folder)
    directory = directory[0] if isinstance(directory, list) else directory
    assert {f["filename"] for f in directory["files"]} == set(net.them.files)

    # The folder's files as they came, with full paths put in.
    for f in directory["files"]:
        f["filename"] = folder + "\\" + f["filename"]
    assert slskd.transfers.enqueue(username=result["username"], files=directory["files"])
    # It looks once, five seconds later at most.
    listing = until("the downloads are listed", lambda: slskd.transfers.get_downloads(result["username"]), 5)
    ours = next(d for d in listing["directories"] if d["directory"] == folder)
    ids = {f["filename"]: f["id"] for f in ours["files"]}
    assert set(ids) == {f["filename"] for f in directory["files"]}

    for ident in ids.values():
        until("it is here", lambda: slskd.transfers.get_download(result["username"], ident)["state"] == "Completed, Succeeded")
    for name, path in net.them.files.items():
        assert sha256(net.box.downloads / folder.rsplit("\\", 1)[1] / name) == sha256(path)

    for ident in ids.values():
        assert slskd.transfers.cancel_download(username=result["username"], id=ident)
    assert slskd.transfers.remove_completed_downloads()
    assert slskd.transfers.get_all_downloads() == []
    kept = slskd.transfers.get_all_downloads(includeRemoved=True)
    assert {f["id"] for user in kept for f in files_of(user)} == set(ids.values())
    assert slskd.searches.delete(search["id"])
