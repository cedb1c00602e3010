"""Scenarios, their reports, and their ends.

`SLSKDN_SOAK_ROUNDS` sets the kills, `SLSKDN_SOAK_SEED` repeats their moments (the kernel's timing stays its own)."""
import os
import secrets
import signal
import subprocess
from pathlib import Path

import pytest
from box import until

MIB = 1 << 20
KEYS = ["completed", "identical", "bytes", "seconds", "ideal_seconds", "ratio", "bytes_by_source", "wasted_bytes",
        "corrupt_pieces_by_source", "rescue", "peak_rss_kib", "trace"]


def came(report, size):
    assert list(report) == KEYS
    assert report["completed"] and report["identical"] and report["bytes"] == size, report
    assert sum(report["bytes_by_source"].values()) == size, report
    assert report["peak_rss_kib"] > 1_000 and report["rescue"] is None, report
    # Who sends a list of another file is noted before the job begins.
    kinds = [line["type"] for line in report["trace"] if line["type"] != "Note"]
    assert kinds[0] == "JobStart" and kinds[-1] == "JobComplete" and "ChunkRequested" in kinds, kinds
    assert abs(report["ratio"] - report["seconds"] / report["ideal_seconds"]) < 0.01, report


def test_several_peers_bring_a_flac_file(lab):
    report = lab.play("""
        file: {size_mib: 8, kind: flac}
        peers:
          - {name: one, rate_kib_s: 2000}
          - {name: two, rate_kib_s: 1000, rtt_ms: 40}
          - {name: calls, rate_kib_s: 1000, pinned: false}
    """)
    came(report, 8 * MIB)
    assert all(report["bytes_by_source"].values()), report
    assert report["corrupt_pieces_by_source"] == {}
    assert report["ideal_seconds"] == 2.048
    assert not lab.folders() and not lab.nodes()


def test_a_soulseek_user_and_mesh_peers_share_the_work(lab):
    report = lab.play("""
        file: {size_mib: 8, kind: flac}
        peers:
          - {name: user, via: soulseek, rate_kib_s: 1000}
          - {name: one, rate_kib_s: 1000}
          - {name: refuses, via: soulseek, deny_offset: true, rate_kib_s: 1000, rtt_ms: 500}
    """)
    came(report, 8 * MIB)
    assert report["bytes_by_source"]["user"] > 0 and report["bytes_by_source"]["one"] > 0, report


def test_silence_departure_and_lateness(lab):
    report = lab.play("""
        file: {size_mib: 24, kind: random}
        peers:
          - {name: good, rate_kib_s: 1500}
          - {name: falls-silent, rate_kib_s: 1000, stall_after_kib: 1000}
          - {name: is-gone, rate_kib_s: 1000, disconnect_after_kib: 1000}
          - {name: leaves, rate_kib_s: 500, leave_at_s: 1.5}
          - {name: comes, rate_kib_s: 1000, start_at_s: 1}
    """)
    came(report, 24 * MIB)
    share = report["bytes_by_source"]
    assert 0 < share["falls-silent"] <= 1000 << 10 and 0 < share["is-gone"] <= 1000 << 10, share
    assert share["comes"] > 0, share


def test_a_corrupter_is_named_and_brings_nothing(lab):
    report = lab.play("""
        file: {size_mib: 8, kind: random}
        peers:
          - {name: good, rate_kib_s: 3000}
          - {name: corrupter, rate_kib_s: 1000, corrupt_every: 1}
    """)
    came(report, 8 * MIB)
    assert list(report["corrupt_pieces_by_source"]) == ["corrupter"] and report["bytes_by_source"]["corrupter"] == 0
    assert report["wasted_bytes"] >= 64 << 10, report


def test_other_files_under_this_hash(lab):
    report = lab.play("""
        file: {size_mib: 8, kind: flac}
        peers:
          - {name: good, rate_kib_s: 4000}
          - {name: liar, rate_kib_s: 4000, wrong_root: true}
          - {name: has-another, rate_kib_s: 4000, other_rip: true}
          - {name: busy, rate_kib_s: 500, queue_s: 60}
    """)
    came(report, 8 * MIB)
    assert report["bytes_by_source"] == {"good": 8 * MIB, "liar": 0, "has-another": 0, "busy": 0}, report


def test_nobody_has_it(lab):
    report = lab.play("""
        file: {size_mib: 1, kind: random}
        time_limit_s: 2
        peers: [{name: has-another, rate_kib_s: 4000, other_rip: true}]
    """, code=1)
    assert list(report) == KEYS
    assert not report["completed"] and not report["identical"] and report["bytes"] == 0, report
    assert report["ideal_seconds"] is None and report["ratio"] is None, report


@pytest.mark.parametrize("text, told", [
    ("file: {size_mib: 1}\npeers:\n- name: a\n  rate: 3\n", "scenario.yml:4:3: peers[0].rate: unknown key"),
    ("file: {size_mib: 1}\npeers: [{via: http}]\n", "scenario.yml:2:10: peers[0].via: mesh or soulseek"),
    ("file: {size_mib: 1}\npeers:\n- via: mesh\n  deny_offset: true\n", "scenario.yml:4:3: peers[0].deny_offset: only"),
    ("file: {size_mib: 1}\npeers: [{}]\nrescue: {stall_s: 1}\n", "scenario.yml:3:"),
    ("file: {size_mib: 1}\npeers: [{}]\nguardrails: {}\n", "scenario.yml:3:"),
    ("file: [", "scenario.yml:"),
])
def test_mistakes_are_named_with_key_and_line(lab, text, told):
    done = lab.run("--scenario", lab.scenario(text), "--json", code=2)
    assert done.stdout == "" and told in done.stderr, done.stderr
    assert not lab.folders()


def test_a_scenario_that_is_not_there(lab):
    done = lab.run("--scenario", lab.tmp / "none.yml", "--json", code=2)
    assert done.stdout == "" and "none.yml: cannot be read" in done.stderr, done.stderr


LONG_ONE = """
    file: {size_mib: 8, kind: random}
    peers: [{name: one, rate_kib_s: 10}, {name: two, rate_kib_s: 10}]
"""


def test_kills_of_the_fetching_node_cost_what_was_under_way(lab):
    left = max(1, int(os.environ.get("SLSKDN_SOAK_ROUNDS", 5)))
    seed = int(os.environ.get("SLSKDN_SOAK_SEED", secrets.randbelow(1 << 32)))
    print(f"\n{left} kills, SLSKDN_SOAK_SEED={seed}", flush=True)
    while left > 0:
        kills = min(left, 10)
        # Four MiB a kill, so that none comes when all is there.
        report = lab.play(f"""
            file: {{size_mib: {kills * 4}, kind: random}}
            seed: {seed}
            kills: {kills}
            time_limit_s: {60 + kills * 10}
            peers:
              - {{name: fast, rate_kib_s: 1500}}
              - {{name: slow, rate_kib_s: 500}}
              - {{name: silent, rate_kib_s: 1000, stall_after_kib: 1000}}
              - {{name: corrupter, rate_kib_s: 500, corrupt_every: 1}}
        """)
        wasted = report["wasted_bytes"] // 1024
        print(f"{report['kills']} kills, {wasted} KiB sent in vain", flush=True)
        assert report["completed"] and report["identical"] and report["kills"] == kills, report
        # Under way at a kill is what the sources send in six tenths of a second; the liar is found out anew each time.
        assert wasted <= kills * (3_500 * 6 // 10 + 4 * 64) + 1024, report
        left, seed = left - kills, seed + 1


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_lab(lab, how):
    going = lab.begin(LONG_ONE)
    # Two peers and the fetcher; the lab itself does not name the folder.
    until("all nodes run", lambda: going.poll() is None and len(lab.nodes()) == 3)
    going.send_signal(how)
    _, told = going.communicate(timeout=60)
    if how == signal.SIGKILL:
        assert going.returncode == -how
    else:
        assert going.returncode == 1 and told.splitlines()[-1] == "slskdn: interrupted", told
        assert not lab.folders()
    until("all nodes are gone", lambda: not lab.nodes())


def test_the_folder_can_be_kept(lab):
    text = "file: {size_mib: 1}\npeers: [{name: one}]\n"
    done = lab.run("--scenario", lab.scenario(text), "--keep")
    [folder] = lab.folders()
    assert f"everything lies in {folder}" in done.stderr, done.stderr
    assert (folder / "fetcher.log").read_text() and (folder / "peers" / "one").is_dir()
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert (folder / "fetcher" / "downloads" / "lab.bin").read_bytes() == (folder / "music" / "lab.bin").read_bytes()
    assert "The file is there" in done.stdout, done.stdout


def test_without_arguments_it_shows_what_it_is(lab):
    done = lab.run()
    lines = done.stdout.splitlines()
    assert len(lines) > 6 and any("falls-silent" in line and "KiB/s" in line for line in lines), done.stdout
    assert "The file is there, and it is the one that was made." in lines, done.stdout
    assert any("liar" in line and "bad pieces" in line for line in lines), done.stdout


def test_the_flac_file_plays(lab):
    text = "file: {size_mib: 3, kind: flac}\nseed: 4\npeers: [{name: one}]\n"
    lab.run("--scenario", lab.scenario(text), "--keep")
    [folder] = lab.folders()
    subprocess.run(["flac", "-t", "-s", Path(folder / "music" / "lab.flac")], check=True)
