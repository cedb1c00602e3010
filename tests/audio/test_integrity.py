"""What `slskdn analyze` says about damage and length, beside `flac -t` and what was encoded."""

import os
import random
import shutil
import subprocess
import wave

import pytest

from test_measurements import call, ours

SEED = int(os.environ.get("SLSKDN_SOAK_SEED", random.SystemRandom().randrange(2**32)))
SOUND = "aevalsrc=exprs='0.4*sin(2*PI*(220+40*floor(mod(t*3\\,9)))*t)+0.1*(random(0)-0.5)|0.3*sin(2*PI*330*t)':s=44100:d=6.1"
# Their containers and headers tell how much the encoder added at either end.
LENGTHS = {
    "flac": ("flac", ["-c:a", "flac"]),
    "alac": ("m4a", ["-c:a", "alac"]),
    "wav": ("wav", ["-c:a", "pcm_s16le"]),
    "aiff": ("aiff", ["-c:a", "pcm_s16be"]),
    "vorbis": ("ogg", ["-c:a", "libvorbis", "-q:a", "5"]),
    "opus": ("opus", ["-c:a", "libopus", "-b:a", "96k"]),
    "mp3": ("mp3", ["-c:a", "libmp3lame", "-q:a", "2"]),
    "aac": ("m4a", ["-c:a", "aac", "-b:a", "160k"]),
}


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    path = tmp_path_factory.mktemp("integrity") / "master.wav"
    call("ffmpeg", "-v", "error", "-f", "lavfi", "-i", SOUND, "-c:a", "pcm_s16le", str(path))
    return path


@pytest.mark.parametrize("coding", LENGTHS)
def test_duration_is_what_was_encoded(master, tmp_path, coding):
    extension, options = LENGTHS[coding]
    path = tmp_path / f"song.{extension}"
    call("ffmpeg", "-v", "error", "-i", str(master), *options, str(path))
    with wave.open(str(master)) as encoded:
        seconds = encoded.getnframes() / encoded.getframerate()
    found = ours(path)
    assert found["samples"] / found["sample_rate_hz"] == pytest.approx(seconds, abs=0.001)


# ffmpeg's headers, with their 8 KiB of padding, are shorter.
METADATA = 9_000


def flac_t(path):
    assert shutil.which("flac"), "flac is missing: install flac"
    return subprocess.run(["flac", "-s", "-t", str(path)], capture_output=True).returncode == 0


@pytest.mark.parametrize("rate,bits", [(44_100, "s16"), (48_000, "s32"), (96_000, "s32")])
def test_flac_is_whole_when_flac_says_so(master, tmp_path, rate, bits):
    whole = tmp_path / "whole.flac"
    call("ffmpeg", "-v", "error", "-i", str(master), "-ar", str(rate), "-sample_fmt", bits, "-c:a", "flac", str(whole))
    assert flac_t(whole) and ours(whole)["is_whole"] and ours(whole)["pcm_md5_check"] == "equal"

    print(f"SLSKDN_SOAK_SEED={SEED}")
    dice = random.Random(f"{SEED} {rate}")
    bytes_ = whole.read_bytes()
    # Behind the metadata: a bit of a tag is no damage to either.
    for round_ in range(12):
        at = dice.randrange(METADATA, len(bytes_))
        if round_ % 3 == 2:
            hurt = bytes_[:at]
        else:
            hurt = bytes_[:at] + bytes([bytes_[at] ^ 1 << dice.randrange(8)]) + bytes_[at + 1 :]
        path = tmp_path / "hurt.flac"
        path.write_bytes(hurt)
        found = ours(path, fine=(0, 3))
        if found["outcome"] != "measured":
            # So little is left that not one frame is whole.
            assert not flac_t(path) and round_ % 3 == 2, f"round {round_}, byte {at}: {found}"
            continue
        assert found["is_whole"] == flac_t(path), f"round {round_}, byte {at}"
        if round_ % 3 != 2:
            # In the frame the bit is in; no frame of such a file is longer.
            bad = found["first_bad_frame"]
            assert 0 <= at - bad["at_byte"] <= found["max_frame_size"], f"round {round_}, byte {at}: {bad}"

