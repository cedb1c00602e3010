"""What tools poll: a download is in the list at every moment, also while it passes from running to over."""
from world import Node, Peer, World, free_port


def test_no_download_is_missing_from_the_list_for_a_moment():
    world = World(big_mib=1)
    failed = True
    try:
        folder = world.tmp / "share-them" / "Many"
        folder.mkdir(parents=True)
        for n in range(40):
            (folder / f"many {n}.flac").write_bytes(bytes([n]) * 5_000)
        them = Peer(world, "nicotine", "them", free_port(), "--upload-slots", "20")
        node = Node(world, **{"global.download.slots": 20})
        wanted = node.search("them many", lambda responses: next(
            ([(f["filename"], f["size"]) for f in r["files"]] for r in responses if len(r["files"]) == 40), None))
        assert them.process.alive()
        node.enqueue("them", wanted)
        asked, done, polls = {path for path, _ in wanted}, 0, 0
        while done < len(wanted):
            rows = node.transfers("downloads", "them")
            names = [row["filename"] for row in rows]
            assert len(names) == len(set(names)), "twice in one list"
            assert set(names) == asked, f"poll {polls}, {done} were over"
            states = [row["state"] for row in rows if row["state"].startswith("Completed")]
            assert set(states) <= {"Completed, Succeeded"}, states
            done, polls = len(states), polls + 1
        failed = False
    finally:
        world.close(keep=failed)
