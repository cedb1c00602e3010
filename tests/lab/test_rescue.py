"""Downloads that hang, and mesh peers that help: real processes, short thresholds, every rule and every guardrail."""
import http.client
import json
import os
import random
import socket

import pytest

from box import run, until

MIB = 1 << 20
SHORT = "{stall_timeout_seconds: 3, sample_interval_seconds: 1, min_duration_seconds: 4, max_queue_time_seconds: 60}"
# For a user who keeps us queued.
QUEUE = SHORT.replace("max_queue_time_seconds: 60", "max_queue_time_seconds: 3")
THREE = """
          - {name: one, rate_kib_s: 300%s}
          - {name: two, rate_kib_s: 300%s}
          - {name: three, rate_kib_s: 300%s}
"""


def scenario(user, peers=THREE % ("", "", ""), rails="max_overlay_to_soulseek_ratio: 100", size=4, limit=120, kind="flac",
             short=SHORT):
    return f"""
        file: {{size_mib: {size}, kind: {kind}}}
        time_limit_s: {limit}
        rescue: {short}
        guardrails: {{{rails}}}
        peers:
          - {{name: user, via: soulseek, {user}}}{peers}"""


def kinds(report):
    return [line["type"] for line in report["trace"]]


def rescued(report, reason, size=8 * MIB, story=True):
    """The file is whole, the story is told, and the user's transfer was not called off before."""
    rescue = report["rescue"]
    assert report["completed"] and report["identical"], report
    assert (rescue["state"], rescue["manner"], rescue["reason"]) == ("Completed", "splice", reason), rescue
    assert rescue["transfer"] == "Completed, Succeeded" and rescue["rung"] == "verified", rescue
    told = kinds(report)
    if story:
        assert told.index("RescueModeActivated") < told.index("TrackComplete") < told.index("RescueModeDeactivated"), told
    assert sum(report["bytes_by_source"].values()) == size, report
    assert rescue["overlay_bytes"] + report["bytes_by_source"]["user"] >= size, report
    # Byte counts are those of the sockets. What a peer had handed to its connection when its run was taken back never came:
    # a frame or two of 16 KiB, of all three together at the end of a file. So the file has to be this long for 1 %.
    sent = report["wasted_bytes"] + sum(n for name, n in report["bytes_by_source"].items() if name != "user")
    assert abs(rescue["overlay_bytes"] - sent) <= sent / 100, (rescue, sent)
    user = report.get("soulseek", {"sent": 0})["sent"]
    assert abs(rescue["soulseek_bytes"] - user) <= 16 << 10, report


def test_a_download_that_stalls_at_12_percent_is_finished(lab):
    report = lab.play(scenario("rate_kib_s: 500, stall_after_kib: 983", size=8))
    rescued(report, "Stalled")
    assert report["bytes_by_source"]["user"] == 983 // 64 * 65_536, report
    [run] = report["soulseek"]["runs"]
    assert run["offset"] == 0 and run["bytes"] == 983 << 10, run
    rescue = report["rescue"]
    assert rescue["soulseek_bytes"] == report["soulseek"]["sent"], report
    assert rescue["not_the_file"] == {}, rescue


def test_a_download_of_which_no_byte_ever_comes(lab):
    report = lab.play(scenario("rate_kib_s: 500, stall_after_kib: 0", size=8))
    rescued(report, "Stalled")
    assert report["bytes_by_source"]["user"] == 0, report
    assert [run["bytes"] for run in report["soulseek"]["runs"]] == [0], report["soulseek"]


def test_a_queue_without_end(lab):
    report = lab.play(scenario("queue_s: 3600", size=8, short=QUEUE))
    rescued(report, "QueuedTooLong")
    assert report["soulseek"]["asked"] >= 1 and report["soulseek"]["runs"] == [], report["soulseek"]


def test_two_kib_a_second(lab):
    text = scenario("rate_kib_s: 2", size=8, short=SHORT.replace("stall_timeout_seconds: 3", "stall_timeout_seconds: 20"))
    done = lab.run("--scenario", lab.scenario(text), "--json", "--keep")
    report = json.loads(done.stdout)
    rescued(report, "ThroughputTooLow")
    # It is one upload. Whether its user sees that it is closed before the lab ends is chance.
    [upload] = report["soulseek"]["runs"]
    assert upload["offset"] == 0 and report["soulseek"]["asked"] == 1 and upload["end"] in ("closed", None), upload
    # It went on until the file was there: the download's own story has no end of it before.
    told = story_of_the_download(lab, report)
    assert told.count("PeerConnected") == 1, told
    before = told[told.index("PeerConnected") + 1:told.index("JobComplete")]
    assert set(before) <= {"RescueModeActivated", "GuardrailHit", "Note"}, told


def story_of_the_download(lab, report):
    """What happened to the download itself, out of what the fetching node kept."""
    began = next(line for line in report["trace"] if line["type"] == "RescueModeActivated")["message"]
    ident = began.removeprefix("mesh peers help the download ").split(" ")[0]
    [folder] = lab.folders()
    kept = json.loads(run("--data", folder / "fetcher", "debug", "job", ident, "--json").stdout)
    return [line["type"] for line in kept["events"]]


def test_a_user_who_is_gone(lab):
    report = lab.play(scenario("rate_kib_s: 500, disconnect_after_kib: 983", size=8))
    rescued(report, "PeerDisconnected")
    assert report["bytes_by_source"]["user"] > 0, report


def test_a_user_who_was_never_there(lab):
    report = lab.play(scenario("rate_kib_s: 500, start_at_s: 80000",
                               rails="max_overlay_to_soulseek_ratio: 100, require_seen_on_soulseek: false", size=8))
    rescued(report, "PeerDisconnected")


def test_a_user_who_refuses_is_no_origin(lab):
    """The file is not shared: the download fails, and there is nothing on Soulseek to be rescued."""
    report = lab.play(scenario("rate_kib_s: 500, refuses: true", rails="require_seen_on_soulseek: false", limit=60), code=1)
    rescue = report["rescue"]
    assert (rescue["state"], rescue["guardrails_hit"]) == ("Failed", ["require_soulseek_origin"]), rescue
    assert rescue["transfer"] == "Completed, Rejected" and rescue["overlay_bytes"] == 0, rescue


@pytest.mark.parametrize("rail", ["require_soulseek_origin: false", "allow_overlay_only: true"])
def test_without_an_origin_if_the_owner_says_so(lab, rail):
    report = lab.play(scenario("rate_kib_s: 500, refuses: true", rails=f"require_seen_on_soulseek: false, {rail}", size=8))
    rescued(report, "PeerDisconnected")


def test_kills_of_the_fetching_node(lab):
    """Each kill costs what was under way, and the rescue goes on by itself."""
    left = int(os.environ.get("SLSKDN_SOAK_ROUNDS", 2))
    seed = int(os.environ.get("SLSKDN_SOAK_SEED", random.randrange(1 << 32)))
    print(f"\n{left} kills, SLSKDN_SOAK_SEED={seed}", flush=True)
    while left > 0:
        kills = min(left, 10)
        text = scenario("rate_kib_s: 500, stall_after_kib: 983", size=4 * (kills + 1), limit=60 + 20 * kills)
        report = lab.play(f"\n        seed: {seed}\n        kills: {kills}" + text)
        assert report["completed"] and report["identical"] and report["kills"] == kills, report
        rescue = report["rescue"]
        assert (rescue["state"], rescue["manner"], rescue["rung"]) == ("Completed", "splice", "verified"), rescue
        assert rescue["transfer"] == "Completed, Succeeded", rescue
        # What the killed node had and had not counted, at most: runs under way and a second of all peers.
        assert report["wasted_bytes"] <= kills * 4 * MIB, report
        left, seed = left - kills, seed + 1


def test_another_rip_lies_beside_what_the_user_sends_later(lab):
    """The download is not called off: the user comes round, and both files are there."""
    text = scenario("rate_kib_s: 500, stall_after_kib: 983, recovers_after_s: 25",
                    "\n          - {name: one, rate_kib_s: 900, other_rip: true}\n", size=3)
    done = lab.run("--scenario", lab.scenario(text), "--json", "--keep", code=1)
    report = json.loads(done.stdout)
    rescue = report["rescue"]
    assert (rescue["state"], rescue["manner"]) == ("Completed", "whole_variant"), rescue
    assert report["completed"] and not report["identical"], report
    assert (rescue["transfer"], rescue["rung"]) == ("Completed, Succeeded", "single_source"), rescue
    [run] = report["soulseek"]["runs"]
    assert run["bytes"] == 3 * MIB, run
    [folder] = lab.folders()
    [copy] = (folder / "fetcher" / "downloads").rglob("*rescued copy*")
    [own] = set((folder / "fetcher" / "downloads").rglob("*.flac")) - {copy}
    assert copy.read_bytes() == (folder / "other" / "lab.flac").read_bytes()
    assert own.read_bytes() == (folder / "music" / "lab.flac").read_bytes()
    assert not list((folder / "fetcher" / "incomplete").glob("*.*")), "nothing is left of either"


def test_strangers_alone_bring_a_copy_into_a_file_of_its_own(lab):
    """Nothing came from the user, and nobody is vouched for: nothing can be joined. The download stays where it is."""
    strangers = THREE % ((", pinned: false",) * 3)
    report = lab.play(scenario("queue_s: 3600", strangers, short=QUEUE))
    rescue = report["rescue"]
    assert report["completed"] and report["identical"], report
    assert (rescue["state"], rescue["manner"], rescue["rung"]) == ("Completed", "whole_variant", "rescued_copy"), rescue
    assert rescue["transfer"].startswith("Queued"), rescue
    assert report["soulseek"]["runs"] == [], report["soulseek"]


def test_another_song_under_the_name_of_the_recording_is_not_taken(lab):
    """It does not sound like what the user sent: it is thrown away, its peer is named, and the download goes on."""
    text = scenario("rate_kib_s: 500, stall_after_kib: 1800",
                    "\n          - {name: liar, rate_kib_s: 900, other_song: true}\n", size=3, limit=60)
    report = lab.play(text, code=1)
    rescue = report["rescue"]
    assert not report["completed"] and rescue["state"] == "Failed" and "another recording" in rescue["told"], rescue
    assert list(rescue["not_the_file"]) == ["liar"], rescue
    assert not rescue["transfer"].startswith("Completed"), rescue


LIARS = {
    # A piece list of another file under this hash.
    "hash": "\n          - {name: liar, rate_kib_s: 900, wrong_root: true}" + THREE % ("", "", ""),
    # One altered piece.
    "piece": "\n          - {name: liar, rate_kib_s: 900, corrupt_every: 9}" + THREE % ("", "", ""),
    # Strangers agree on a wrong file, two to one.
    "majority": """
          - {name: liar, rate_kib_s: 600, other_rip: true, pinned: false}
          - {name: liar2, rate_kib_s: 600, other_rip: true, pinned: false}
          - {name: honest, rate_kib_s: 900, pinned: false}
""",
    # Strangers agree on a file whose beginning is that of the right one.
    "tail": """
          - {name: liar, rate_kib_s: 900, wrong_tail: true, pinned: false}
          - {name: liar2, rate_kib_s: 900, wrong_tail: true, pinned: false}
          - {name: honest, rate_kib_s: 900, pinned: false}
""",
}


@pytest.mark.parametrize("lie", LIARS)
def test_liars_put_no_wrong_byte_in_and_are_named(lab, lie):
    # 12 % of the file is there.
    report = lab.play(scenario("rate_kib_s: 500, stall_after_kib: 983", LIARS[lie], size=8))
    assert report["bytes_by_source"]["user"] <= 8 * MIB * 12 // 100, report
    assert report["completed"] and report["identical"], report
    rescue = report["rescue"]
    assert rescue["manner"] == "splice" and rescue["state"] == "Completed", rescue
    strangers = lie in ("majority", "tail")
    assert rescue["rung"] == ("rescued_copy" if strangers else "verified"), rescue
    if lie == "piece":
        assert list(report["corrupt_pieces_by_source"]) == ["liar"], report
    # With the hash the liar may not have been asked for anything: others were quicker.
    named = set(rescue["not_the_file"])
    assert named == ({"liar", "liar2"} if strangers else {"liar"}), (named, report["trace"])


def test_a_user_who_recovers_finishes_the_run(lab):
    slow = THREE.replace("300", "60") % ("", "", "")
    user = "rate_kib_s: 500, stall_after_kib: 983, recovers_after_s: 10"
    report = lab.play(scenario(user, slow, size=10))
    assert report["completed"] and report["identical"], report
    notes = [line["message"] for line in report["trace"] if line["type"] == "Note"]
    assert any("the mesh gives way" in note for note in notes), notes
    [run] = report["soulseek"]["runs"]
    assert run["bytes"] > 5 * MIB, run
    # Nothing more is asked of the mesh then, but what was written down late.
    later = kinds(report)[[line.get("message", "") for line in report["trace"]].index(
        next(note for note in notes if "the mesh gives way" in note)):]
    assert later.count("ChunkRequested") <= 3, later


def test_the_default_ratio_holds_the_mesh_to_half_its_speed(lab):
    report = lab.play(scenario("rate_kib_s: 500, stall_after_kib: 983", rails="max_overlay_to_soulseek_ratio: 2.0", size=8))
    rescued(report, "Stalled")
    # What that costs is told by tests/bench/rescue.
    assert report["rescue"]["guardrails_hit"] == ["max_overlay_to_soulseek_ratio"], report["rescue"]
    hit = next(line for line in report["trace"] if line["type"] == "GuardrailHit")
    assert "half its speed" in hit["message"] and int(hit["message"].split("held to ")[1].split(" ")[0]) >= 16 << 10, hit


def test_with_overlay_only_the_ratio_is_noted_and_nothing_is_held(lab):
    report = lab.play(scenario("rate_kib_s: 500, stall_after_kib: 983",
                               rails="max_overlay_to_soulseek_ratio: 2.0, allow_overlay_only: true", size=8))
    rescued(report, "Stalled")
    assert report["rescue"]["guardrails_hit"] == ["allow_overlay_only"], report["rescue"]


def test_the_day_is_full(lab):
    report = lab.play(scenario("rate_kib_s: 500, stall_after_kib: 983",
                               rails="max_overlay_to_soulseek_ratio: 100, max_overlay_mb_per_day: 2", limit=45), code=1)
    rescue = report["rescue"]
    assert not report["completed"] and rescue["state"] == "Active", report
    assert "max_overlay_mb_per_day" in rescue["guardrails_hit"], rescue
    # What the peers sent, as they count it.
    sent = report["wasted_bytes"] + sum(n for name, n in report["bytes_by_source"].items() if name != "user")
    assert 1 * MIB < sent <= 2 * MIB, report


@pytest.mark.parametrize("user, rails, kind, hit", [
    ("rate_kib_s: 500, start_at_s: 80000", "require_seen_on_soulseek: true", "flac", "require_seen_on_soulseek"),
    ("rate_kib_s: 500, stall_after_kib: 300", "max_overlay_mb_per_day: 0", "flac", "max_overlay_mb_per_day"),
    ("rate_kib_s: 500, stall_after_kib: 300", "require_fingerprint_verification: true", "random",
     "require_fingerprint_verification"),
], ids=["seen", "cap", "fingerprint"])
def test_guardrails_that_forbid_a_rescue(lab, user, rails, kind, hit):
    report = lab.play(scenario(user, rails=rails, kind=kind, size=1, limit=35), code=1)
    assert not report["completed"] and report["rescue"]["state"] == "Failed", report
    assert hit in report["rescue"]["guardrails_hit"] and report["rescue"]["told"].startswith("not allowed: "), report
    assert report["wasted_bytes"] == 0 and report["rescue"]["overlay_bytes"] == 0, report


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost")
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


def ask(path, method, url, body=None):
    """The fetching node's own API, over its control socket."""
    connection = Unix(path)
    connection.request(method, url, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    assert answer.status < 400, (answer.status, data)
    return json.loads(data) if data else None


def being_rescued(lab, far_enough):
    """The control socket of the lab's fetching node, and its one download once its rescue is so far."""
    control = until("the fetching node is there", lambda: next(iter(lab.temp.glob("*/fetcher/control.sock")), None))

    def rows():
        try:
            found = ask(control, "GET", "/api/downloads")["transfers"]
        except OSError:
            return None
        return [row for row in found if row["rescue"] and far_enough(row["rescue"])]
    [row] = until("the first is being rescued", rows)
    return control, row


def test_no_more_rescues_at_once_than_the_owner_allows(lab):
    """While one runs, a second download hangs."""
    text = scenario("rate_kib_s: 500, stall_after_kib: 983", THREE.replace("300", "40") % ("", "", ""),
                    rails="max_overlay_to_soulseek_ratio: 100, require_seen_on_soulseek: false, max_concurrent_rescue_jobs: 1")
    playing = lab.begin(text, "--keep")
    try:
        control, row = being_rescued(lab, lambda rescue: rescue["state"] == "Active")
        recording = row["rescue"]["recording_id"]
        file = {"path": "music\\other\\song.flac", "size": row["size"], "recording": recording}
        asked = ask(control, "POST", "/api/downloads", {"user": "nobody", "files": [file]})
        path = f"/api/downloads/{asked['accepted'][0]['id']}"
        second = until("the second is told that it may not", lambda: ask(control, "GET", path)["rescue"])
        assert second["guardrails_hit"] == ["max_concurrent_rescue_jobs"], second
        assert (second["state"], second["reason"], second["recording_id"]) == ("Failed", "PeerDisconnected", recording), second
        jobs = [job["state"] for job in ask(control, "GET", "/api/rescue/jobs")]
        assert jobs.count("Active") == 1, jobs
        # The owner ends the first: it is over, the download is not, and it is not rescued again though the second is.
        one = f"/api/rescue/jobs/{row['id']}"
        ask(control, "DELETE", one)
        ended = until("it is over", lambda: (job := ask(control, "GET", one))["state"] != "Active" and job)
        assert (ended["state"], ended["told"], ended["unwanted"]) == ("Cancelled", "the owner ended it", True), ended
        assert not ask(control, "GET", f"/api/downloads/{row['id']}")["is_over"]
        second = until("the second has its turn",
                       lambda: (rescue := ask(control, "GET", path)["rescue"])["bytes_done"] and rescue)
        assert ask(control, "GET", one)["state"] == "Cancelled"
        # Its fetch is forgotten: the rescue is over then, instead of waiting for what does not come.
        ask(control, "DELETE", f"/api/mesh/fetches/{second['content_hash']}")
        until("it is over too", lambda: "forgot" in ask(control, "GET", path)["rescue"]["told"])
    finally:
        playing.terminate()
        playing.communicate(timeout=60)


def test_one_fetch_helps_one_download(lab):
    """A second download of the same file hangs meanwhile: it waits, and takes nothing away from the first."""
    text = scenario("rate_kib_s: 500, stall_after_kib: 983", THREE.replace("300", "160") % ("", "", ""),
                    rails="max_overlay_to_soulseek_ratio: 100, require_seen_on_soulseek: false", size=8)
    playing = lab.begin(text, "--json")
    try:
        control, row = being_rescued(lab, lambda rescue: rescue["bytes_done"])
        file = {"path": row["path"], "size": row["size"], "recording": row["rescue"]["recording_id"]}
        ask(control, "POST", "/api/downloads", {"user": "nobody", "files": [file]})
        log = next(iter(lab.temp.glob("*/fetcher.log")))
        until("the second was looked at", lambda: "no connected peer can help" in log.read_text())
        told, _ = playing.communicate(timeout=120)
        report = json.loads(told)
        # Once the first is done the second's turn comes: its story may be told by then, under the same hash.
        rescued(report, "Stalled", story=False)
    finally:
        playing.kill()
        playing.wait()


def test_partial_files_that_the_owner_deletes_meanwhile_are_made_anew(lab):
    """That of the download and that of its fetch: what came is lost, and nothing else."""
    playing = lab.begin(scenario("rate_kib_s: 500, stall_after_kib: 983", limit=240), "--json")
    try:
        being_rescued(lab, lambda rescue: rescue["bytes_done"] > 2 * MIB)
        [folder] = lab.temp.glob("*/fetcher/incomplete")
        gone = sorted(file.suffix for file in folder.iterdir() if file.unlink() is None)
        assert gone == [".mesh", ".part"], gone
        told, errors = playing.communicate(timeout=280)
        report = json.loads(told)
    finally:
        playing.kill()
        playing.wait()
    rescue = report["rescue"]
    assert report["completed"] and report["identical"], (report, errors)
    assert (rescue["state"], rescue["manner"], rescue["rung"]) == ("Completed", "splice", "verified"), rescue
    assert rescue["transfer"] == "Completed, Succeeded", rescue
