"""Commands that answer and end: what they print, and their exit codes."""
import hashlib
import json
import subprocess

import blake3
import pytest

from box import BINARY, HERE, lines, run


def test_hash_agrees_with_other_implementations(tmp_path):
    files = []
    for length in (0, 1, 65_535, 65_536, 65_537, 3 * 65_536 + 1_000, 5_000_003):
        path = tmp_path / f"{length} bytes é.flac"
        path.write_bytes((b"slskdn" * (length // 6 + 1))[:length])
        files.append(path)
    rows = [json.loads(line) for line in run("hash", "--json", *files).stdout.splitlines()]
    assert [row["path"] for row in rows] == [str(path) for path in files]
    for row, path in zip(rows, files):
        data = path.read_bytes()
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert row["content_hash"] == row["pieces_root"] == blake3.blake3(data).hexdigest()
        assert row["size"] == len(data)
        assert row["pieces"] == max(1, -(-len(data) // 65_536))
    plain = run("hash", files[-1]).stdout
    assert rows[-1]["sha256"] in plain and rows[-1]["content_hash"] in plain


def test_hash_names_what_it_cannot_read_and_goes_on(tmp_path):
    there = tmp_path / "there"
    there.write_bytes(b"abc")
    done = run("hash", "--json", tmp_path / "absent", there, code=1)
    assert len(done.stdout.splitlines()) == 1
    assert len(lines(done)) == 1 and str(tmp_path / "absent") in lines(done)[0]


def test_the_printed_configuration_is_the_effective_one(tmp_path):
    (tmp_path / "slskdn.yml").write_text("web:\n  port: 1111\nglobal:\n  upload:\n    slots: 7\n")
    environment = {"SLSKDN_WEB_PORT": "2222", "SLSKDN_SOULSEEK_USERNAME": "me"}
    done = run("--data", tmp_path, "--set", "soulseek.password=secret word", "config", "print", environment=environment)
    assert "port: 2222  # environment variable SLSKDN_WEB_PORT" in done.stdout
    assert "slots: 7  # " + str(tmp_path / "slskdn.yml") + ":5:" in done.stdout
    assert "secret word" not in done.stdout and "(set)" in done.stdout


def test_the_sample_is_the_documented_file_and_loads(tmp_path):
    sample = run("config", "sample").stdout
    assert sample == (HERE.parents[1] / "docs" / "slskdn.yml").read_text()
    file = tmp_path / "sample.yml"
    file.write_text(sample)
    assert run("--data", tmp_path / "none", "--config", file, "config", "check").stdout == "the configuration is fine\n"
    assert not (tmp_path / "none").exists(), "looking makes nothing"


def test_the_schema_is_json(tmp_path):
    schema = json.loads(run("config", "schema").stdout)
    assert schema["properties"]["web"]["properties"]["port"]["maximum"] == 65_535


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions(shell):
    script = run("completions", shell).stdout
    assert "slskdn" in script and "restore" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_manual_page():
    page = run("man").stdout
    assert page.startswith(".ie") or ".TH slskdn" in page
    assert "restore" in page


def test_wrong_arguments_have_exit_code_2():
    assert "unexpected argument" in run("--nonsense", code=2).stderr
    assert "serv" in run("serv", code=2).stderr
    assert "required" in run("hash", code=2).stderr


def test_help_and_version():
    assert run("--version").stdout.startswith("slskdn ")
    assert "backup" in run("--help").stdout


def test_a_closed_pipe_is_an_ordinary_end():
    done = subprocess.run(["bash", "-o", "pipefail", "-c", '"$1" config schema | true', "-", str(BINARY)],
                          capture_output=True, text=True)
    assert done.stderr == ""
