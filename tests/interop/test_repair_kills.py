"""SIGKILL in the middle of replacements, of what the next start makes of them, and of their undoing: the owner always has a
file that plays, under the old name or the new one.

A kill is aimed at what the folder shows: the hidden file that grows, the same one when it is whole and being synced and read
back, both files at their places, the new one in the old one's. It comes at a random moment of the time that each of these took
in a first replacement that nobody disturbed. One that came before its record began or after it ended is not counted, and is done
again.

`SLSKDN_SOAK_ROUNDS` sets the rounds, three kills each; `SLSKDN_SOAK_SEED` repeats a run's choices (the kernel's timing stays
its own)."""
import collections
import os
import random
import secrets
import signal
import subprocess
import threading
import time
from datetime import datetime

import requests

from test_jobs import ALL, house, music  # noqa: F401
from test_repair import HEALTH, home, of_kind  # noqa: F401
from world import sha256, until

ROUNDS = int(os.environ.get("SLSKDN_SOAK_ROUNDS", "2"))
SEED = int(os.environ.get("SLSKDN_SOAK_SEED", secrets.randbelow(1 << 32)))
# What a folder shows of a replacement, in this order.
PHASES = ["nothing", "writing", "written", "both", "placed"]
# Where a replacement is killed, and then the start that goes on with it.
AIMS = [("writing", "both"), ("written", "placed"), ("writing", "written"), ("both", "placed")]
# Between the last rename and its record, on an idle machine: seconds.
SETTLING = 0.0015
# Bytes of nothing that good copies have at their head: a copy, a sync and a look at so many take a moment.
PADDING = [16_000_000] * 4


def inode(path):
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def plays(path):
    told = subprocess.run(["ffmpeg", "-v", "error", "-xerror", "-i", str(path), "-map", "0:a", "-f", "null", "-"],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return told.returncode == 0 and not told.stderr


class Case:
    """One file, and what replaces it."""

    def __init__(self, ident, old, new, good):
        self.ident, self.old, self.new = ident, old, new
        self.backup = old.with_name(old.name + ".bak")
        # Where the new one goes when the old one is put back.
        self.aside = new.with_name(new.name + ".bak")
        self.hidden = old.with_name(f".{old.name}.slskdn-new")
        self.sums, self.size, self.number = (sha256(old), sha256(good)), good.stat().st_size, inode(old)

    def phase(self):
        at_old = inode(self.old)
        if at_old != self.number:
            return "placed"
        if (self.backup if self.old == self.new else self.new).exists():
            return "both"
        try:
            return "writing" if self.hidden.stat().st_size < self.size else "written"
        except FileNotFoundError:
            return "nothing"

    def until_back(self, asked):
        end = time.monotonic() + 60
        while inode(self.old) != self.number and asked.is_alive():
            assert time.monotonic() < end, "it is put back"
            time.sleep(0.0001)

    def look(self):
        """What lies there is one of the two and plays, and the old one is there under one name or another."""
        named = {path for path in (self.old, self.new) if path.exists()}
        assert named, "the track has its name, or that of the new file"
        for path in named:
            assert sha256(path) in self.sums and plays(path), f"{path} is one of the two, and plays"
        there = {inode(path) for path in (self.old, self.backup, self.aside, self.hidden)}
        assert self.number in there, "the old file is never lost"


def test_a_kill_at_any_moment_leaves_a_file_that_plays(house, home, music, capsys):  # noqa: F811
    with capsys.disabled():
        print(f"\nkills of replacements: {ROUNDS} rounds, SLSKDN_SOAK_SEED={SEED}", flush=True)
    chance, good = random.Random(SEED), {}

    def padded(share):
        house.album(share, ALL)
        for place, name in {(1, 1): "CD1/01 - Storm.flac", (2, 1): "CD2/01 - Sleep.flac"}.items():
            good[place] = next(share.rglob(name))
            subprocess.run(["metaflac", "--dont-use-padding", *(f"--add-padding={n}" for n in PADDING), str(good[place])], check=True)
    house.peer("nicotine", "whole", padded)
    box, files = home.start().box, home.library.files
    home.scan()
    issues = of_kind(home.issues())
    cases = [Case(issues[kind]["issue_id"], files[place], files[place].with_suffix(".flac"), good[place])
             for kind, place in (("SuspectedTranscode", (1, 1)), ("NonCanonicalVariant", (2, 1)))]
    assert all(case.size > sum(PADDING) for case in cases)

    def begin(case):
        # Once the library knows what the undoing left there.
        until("it is taken up", lambda: box.call("POST", f"{HEALTH}/issues/{case.ident}/fix").status_code == 202)

    def wait(case, phase):
        """Until the folder shows this or what comes after it; since when."""
        end = time.monotonic() + 480
        while PHASES.index(case.phase()) < PHASES.index(phase):
            assert time.monotonic() < end, f"{phase} is seen"
            time.sleep(0.0001)
        return time.monotonic()

    def over(case):
        issue, repair = home.over(case.ident)
        assert (issue["status"], repair["state"]) == ("Resolved", "done"), (issue, repair)
        assert (sha256(case.new), inode(case.backup)) == (case.sums[1], case.number) and not case.hidden.exists()
        return repair

    def ask_undo(case):
        try:
            box.call("POST", f"{HEALTH}/issues/{case.ident}/undo")
        except requests.ConnectionError:
            pass  # It was killed.

    def undone(case):
        assert home.repair(case.ident)["state"] == "undone" and sha256(case.old) == case.sums[0] and plays(case.old)
        assert sha256(case.aside) == case.sums[1] and not case.hidden.exists()
        # What it left, the next one is not to stumble over.
        case.aside.unlink()

    # Undisturbed: how long each takes.
    long = collections.Counter()
    for case in cases:
        begin(case)
        seen = [wait(case, phase) for phase in PHASES[1:]]
        over(case)
        for phase, start, end in zip(PHASES[1:], seen, [*seen[1:], seen[-1] + SETTLING]):
            long[phase] = max(long[phase], end - start)
        asked, began = threading.Thread(target=ask_undo, args=[case]), time.monotonic()
        asked.start()
        case.until_back(asked)
        # Nearly all of it is reading what lies there, before anything is on record.
        long["undoing"] = max(long["undoing"], time.monotonic() - began)
        asked.join()
        undone(case)

    def kill(case, phase, part=1):
        time.sleep(long[phase] * (1 - part) + chance.uniform(0, long[phase] * part))
        box.process.stop(signal.SIGKILL)
        case.look()
        return time.time()

    def was_open(case, when):
        """It ended after the kill: on record it was not over by then."""
        return datetime.fromisoformat(home.repair(case.ident)["ended_at"].replace("Z", "+00:00")).timestamp() > when

    # A kill that fell outside is not one of them, and is done again.
    met, outside = collections.Counter(), collections.Counter()

    def fell_outside(why):
        outside[why] += 1
        assert sum(outside.values()) <= 20 * ROUNDS, f"hardly one falls within: {outside}, {met}"

    def kill_in_replacement(case, aims):
        """Kills one replacement at these, each time behind what the folder shows of it; those that did not come to pass."""
        begin(case)
        for at, aim in enumerate(aims):
            wait(case, aim)
            when, found = kill(case, aim), case.phase()
            box.start(wait=False)
            if found == "placed":
                break
            met[found] += 1
        until("it is logged in", box.logged_in)
        over(case)
        if found == "placed":
            if not was_open(case, when):
                fell_outside("its end was on record")
                return aims[at:]
            met["placed"] += 1
        return aims[at + 1:]

    def kill_in_undoing(case):
        """Undoes it with a kill; whether that fell within."""
        asked = threading.Thread(target=ask_undo, args=[case])
        asked.start()
        if chance.random() < 0.5:
            when = kill(case, "undoing", 0.1)
        else:
            case.until_back(asked)
            when = kill(case, "placed")
        back = inode(case.old) == case.number
        asked.join()
        box.start()
        until("it is decided", lambda: home.repair(case.ident)["state"] in ("done", "undone"))
        if home.repair(case.ident)["state"] == "done":
            fell_outside("the undoing was not on record yet")
            ask_undo(case)
            undone(case)
            return False
        within = was_open(case, when)
        undone(case)
        if within:
            met["put back" if back else "undoing"] += 1
        else:
            fell_outside("the undoing's end was on record")
        return within

    for at in range(ROUNDS):
        # Every aim with both files, in turn.
        case, aims = cases[at % len(cases)], AIMS[(at + at // len(AIMS)) % len(AIMS)]
        while aims := kill_in_replacement(case, aims):
            ask_undo(case)
            undone(case)
        while not kill_in_undoing(case):
            begin(case)
            over(case)
    with capsys.disabled():
        print(f"{sum(met.values())} kills, all within a replacement or its undoing: {dict(met)}; outside, not counted and done "
              f"again: {dict(outside)}", flush=True)
    assert sum(met.values()) == 3 * ROUNDS and "nothing" not in met, met
