"""What is written down about a fetch: by the API, by `debug job` with and without a daemon, through a kill."""
import json
import subprocess

from node import MIB, until
from world import BINARY

KIB_PER_S = 700


def debug(node, job, *more):
    """`slskdn debug job`: exit code, standard output, standard error."""
    ran = subprocess.run([BINARY, "--data", str(node.home), "debug", "job", *more, job], capture_output=True, text=True,
                         timeout=60)
    return ran.returncode, ran.stdout, ran.stderr


def test_a_fetch_is_told_from_its_beginning_to_its_end(node, holders, song):
    path, content = song
    size = path.stat().st_size
    one, other = holders(2, **{"global.upload.speed_limit": KIB_PER_S})
    fetcher = node("fetcher", **{"mesh.peers": f"{one.named};{other.named}"}).start()
    until("both are connected", lambda: fetcher.connected() == {one.id, other.id})
    fetcher.fetch(content, size, "song.wav")
    until("a quarter is there", lambda: fetcher.fetched(content)["bytes_done"] > size // 4)
    # While it runs.
    live = fetcher.get(f"/api/jobs/{content}/trace")["summary"]
    assert live["status"] == "running" and live["title"] == "song.wav" and live["bytes"] > MIB, live
    fetcher.kill()
    code, text, _ = debug(fetcher, content)
    assert code == 0 and "Status      running" in text, text
    fetcher.start()
    until("the file is there", lambda: fetcher.fetched(content)["state"] == "done")

    # Its last line is written once the file is on record.
    told = until("all of it is told", lambda: (t := fetcher.get(f"/api/mesh/fetches/{content}/trace?limit=1000"))
                 ["events"][-1]["type"] == "JobComplete" and t)
    summary, events = told["summary"], told["events"]
    assert (summary["status"], summary["verified"], summary["size_bytes"]) == ("completed", True, size), summary
    assert summary["starts"] == 2, summary
    assert {source["peer_id"] for source in summary["sources"]} == {one.id, other.id}
    assert all(source["source"] == "overlay" and source["bytes"] > MIB for source in summary["sources"]), summary
    # A kill costs at most the second of lines that were not written yet.
    assert size - 5 * MIB < summary["bytes"] + summary["there_bytes"] <= size, summary
    assert summary["overlay_bytes"] == summary["bytes"] and summary["soulseek_bytes"] == 0
    assert abs(sum(source["percent"] for source in summary["sources"]) - 100) < 0.5
    assert [event["sequence"] for event in events] == list(range(len(events))), "without a gap"
    assert all(a["at_us"] <= b["at_us"] for a, b in zip(events, events[1:])), "in order"
    kinds = [event["type"] for event in events]
    assert kinds[0] == "JobStart" and kinds[-1] == "JobComplete" and kinds.count("JobStart") == 2, kinds
    assert {"PeerConnected", "ChunkRequested", "ChunkReceived", "TrackComplete"} <= set(kinds), set(kinds)
    came = [event for event in events if event["type"] == "ChunkReceived"]
    assert all(event["result"] == "ok" and event["throughput_bps"] > 0 and event["time"].endswith("Z") for event in came)
    assert sum(event["chunk_length"] for event in came) <= summary["bytes"]
    page = fetcher.get(f"/api/jobs/{content}/trace?offset=3&limit=2")["events"]
    assert page == events[3:5]
    assert [job["job_id"] for job in fetcher.get("/api/traces")] == [content]
    assert fetcher.call("GET", "/api/jobs/unknown/trace").status_code == 404
    assert fetcher.call("GET", "/api/mesh/fetches/unknown/trace").status_code == 400
    metrics = fetcher.call("GET", "/metrics").text
    assert 'slskdn_swarm_chunks_overlay{name="ok"}' in metrics and 'slskdn_store_entries{name="trace-jobs"} 1' in metrics

    # What the peers know of it: they were told that it is complete, or have sent all they had to.
    uploads = one.get("/api/mesh")["uploads"]
    assert sum(uploads.values()) == 1, uploads

    # The same at the command line, asked of the daemon and read without it; the beginning of the name will do.
    asked = json.loads(debug(fetcher, content, "--json")[1])
    assert asked["summary"] == summary and len(asked["events"]) == summary["events"]
    report = debug(fetcher, content)[1]
    for words in ("song.wav", "Status      completed", one.id[:16], "What happened", "JobComplete"):
        assert words in report, report
    assert debug(fetcher, content[:10])[1] == report
    assert debug(fetcher, "unknown")[0] == 1
    fetcher.stop()
    assert json.loads(debug(fetcher, content[:10], "--json")[1]) == asked
    assert debug(fetcher, content)[1] == report
    assert debug(fetcher, "unknown")[0] == 1
