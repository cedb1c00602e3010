"""The real daemon scans files that lie: every file gets an outcome and a reason, and nobody dies of another's file.

`SLSKDN_SOAK_ROUNDS` sets how many files, `SLSKDN_SOAK_SEED` makes the same ones again.
"""
import collections
import json
import os
import secrets

from box import Box, run, until
from mutants import Mutator, originals

FILES = int(os.environ.get("SLSKDN_SOAK_ROUNDS", "150"))
SEED = int(os.environ.get("SLSKDN_SOAK_SEED", secrets.randbelow(1 << 32)))
HEALTH = "/api/library/health"
# What a person cannot read as a reason.
UNREADABLE = ("panicked", "Some(", "Err(", "unwrap", "RUST_BACKTRACE", "\n")


def readable(reason):
    return len(reason) >= 8 and reason.isprintable() and not any(word in reason for word in UNREADABLE)


def test_every_mutated_file_has_an_outcome_and_a_reason(tmp_path, capsys):
    with capsys.disabled():
        print(f"\nmutation test: {FILES} files, SLSKDN_SOAK_SEED={SEED}", flush=True)
    whole = originals(tmp_path / "originals")
    folder = tmp_path / "music"
    kinds, good = {}, set()

    def put(n, kind, name, extension, data):
        path = folder / f"{n // 100:02}" / f"{n:05} {kind} {name}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)

    for n, (kind, name, extension, data) in enumerate(Mutator(SEED, whole).mutants(FILES)):
        kinds[put(n, kind, name, extension, data)] = kind
        # Between them whole ones, which must not suffer from their neighbours.
        if n % 10 == 0:
            name = list(whole)[n // 10 % len(whole)]
            good.add(put(n, "whole", name, *whole[name]))

    box = Box(tmp_path).start()
    try:
        daemon = box.process.process.pid
        ident = box.post(f"{HEALTH}/scans", {"library_path": str(folder), "offline": True}).json()["scan_id"]
        seen, scan = -1, box.get(f"{HEALTH}/scans/{ident}")
        while scan["status"] == "running":
            # Patience with each step, not with the whole.
            until("the scan goes on", lambda: box.answers() and (now := box.get(f"{HEALTH}/scans/{ident}"))
                  and (now["status"] != "running" or now["files_scanned"] > seen), 300)
            scan = box.get(f"{HEALTH}/scans/{ident}")
            seen = scan["files_scanned"]
        assert scan["status"] == "completed" and scan["error_message"] is None, scan
        assert scan["files_scanned"] == len(kinds) + len(good), scan
        assert box.process.process.pid == daemon and box.answers()
        assert "panicked" not in box.log(), box.log()
    finally:
        box.stop()

    # What the daemon found out, from its own store: nothing is measured again.
    report = json.loads(run("--data", box.home, "scan", "--offline", "--json", folder, code=3).stdout)
    assert report["scan"]["files_measured"] == 0, report["scan"]
    files = {entry["file_path"]: entry for entry in report["files"]}
    assert files.keys() == kinds.keys() | good
    corrupted = {issue["file_path"]: issue["reason"] for issue in report["issues"] if issue["type"] == "CorruptedFile"}
    table, given_up = collections.Counter(), collections.Counter()
    for path, entry in files.items():
        outcome = entry["outcome"]
        assert outcome in ("measured", "corrupted", "unsupported"), entry
        if outcome != "measured":
            assert readable(entry["error"]), entry
        if outcome == "corrupted":
            assert readable(corrupted[path]), (path, corrupted[path])
            if entry["error"].startswith("it was given up: "):
                given_up[entry["error"].removeprefix("it was given up: ")] += 1
        if path in good:
            assert outcome == "measured" and path not in corrupted, (entry, corrupted.get(path))
            continue
        damaged = outcome == "measured" and path in corrupted
        if damaged:
            assert readable(corrupted[path]), corrupted[path]
        if kinds[path] == "ten_hours" and outcome == "measured":
            assert entry["duration_ms"] < 600_000, entry
        table[kinds[path], "measured, damaged" if damaged else outcome] += 1
    columns = ["measured", "measured, damaged", "corrupted", "unsupported"]
    with capsys.disabled():
        print(f"{len(kinds)} mutated and {len(good)} whole files, daemon {daemon} throughout; {', '.join(columns)}:")
        for kind in sorted(set(kinds.values())):
            print(f"  {kind:14}", *(f"{table[kind, column]:5}" for column in columns))
        print(f"given up: {sum(given_up.values())}", *(f"  {n:5} {why}" for why, n in given_up.most_common()), sep="\n", flush=True)
