"""SIGKILL in the middle of replacements and of their undoing: the owner always has a file that plays.

`SLSKDN_SOAK_ROUNDS` sets the rounds, two kills each; `SLSKDN_SOAK_SEED` repeats a run's choices (the kernel's timing stays
its own)."""
import os
import random
import secrets
import signal
import threading
import time

import requests

from test_jobs import ALL, house, music  # noqa: F401
from test_repair import HEALTH, home, of_kind  # noqa: F401
from world import sha256, until

ROUNDS = int(os.environ.get("SLSKDN_SOAK_ROUNDS", "3"))
SEED = int(os.environ.get("SLSKDN_SOAK_SEED", secrets.randbelow(1 << 32)))
# Of a replacement here, most of it hashing and syncing, on an idle machine: seconds.
LONG = 0.006


def test_a_kill_at_any_moment_leaves_a_file_that_plays(house, home, music, capsys):  # noqa: F811
    with capsys.disabled():
        print(f"\nkills of replacements: {ROUNDS} rounds, SLSKDN_SOAK_SEED={SEED}", flush=True)
    chance = random.Random(SEED)
    house.peer("nicotine", "whole", lambda share: house.album(share, ALL))
    box, path = home.start().box, home.library.files[1, 1]
    backup = path.with_name(path.name + ".bak")
    home.scan()
    storm = of_kind(home.issues())["SuspectedTranscode"]["issue_id"]
    old, new, between = home.library.before[1, 1], sha256(music[1, 1]), 0

    def hidden():
        return [found for found in path.parent.iterdir() if found.name.startswith(".")]

    def kill():
        """At some moment of what has just begun; then all that lies there is one of the two, and none is lost."""
        nonlocal between
        time.sleep(chance.uniform(0, LONG))
        box.process.stop(signal.SIGKILL)
        there = {sha256(found) for found in (path, backup) if found.exists()}
        assert path.exists() and sha256(path) in (old, new), "the track has its name, and is one of the two"
        assert old in there, "the old file is never lost"
        between += bool(hidden()) or there == {old}
        box.start()

    for _ in range(ROUNDS):
        before = path.stat().st_ino
        # Once the library knows what the undoing left there.
        until("it is taken up", lambda: box.call("POST", f"{HEALTH}/issues/{storm}/fix").status_code == 202)
        end = time.monotonic() + 480
        while not hidden() and path.stat().st_ino == before:
            assert time.monotonic() < end, "a replacement begins"
            time.sleep(0.0002)
        kill()
        issue, repair = home.over(storm)
        assert (issue["status"], repair["state"]) == ("Resolved", "done"), (issue, repair)
        assert (sha256(path), sha256(backup)) == (new, old) and not hidden()

        def undo():
            try:
                box.call("POST", f"{HEALTH}/issues/{storm}/undo")
            except requests.ConnectionError:
                pass  # It was killed.
        asked = threading.Thread(target=undo)
        asked.start()
        kill()
        asked.join()
        until("it is decided", lambda: home.repair(storm)["state"] in ("done", "undone"))
        if home.repair(storm)["state"] == "done":
            box.call("POST", f"{HEALTH}/issues/{storm}/undo").raise_for_status()
        assert home.repair(storm)["state"] == "undone" and (sha256(path), sha256(backup)) == (old, new) and not hidden()
        # What it left, the next one is not to stumble over.
        backup.unlink()
    with capsys.disabled():
        print(f"{2 * ROUNDS} kills, {between} of them before the end of what they met", flush=True)
