"""Files that claim to be lossless: `slskdn analyze` tells those that real encoders had before from those they had not."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

BINARY = os.environ.get("SLSKDN_BINARY", str(Path(__file__).resolve().parents[2] / "target" / "debug" / "slskdn"))

# Three unlike sounds with treble to lose: struck tones, a filtered noise that swells, and a chord of square waves.
SOUNDS = {
    "bells": "aevalsrc=exprs='0.4*(sin(2*PI*523*t)+0.5*sin(2*PI*1571*t)+0.4*sin(2*PI*4021*t)+0.3*sin(2*PI*9043*t))"
    "*exp(-4*mod(t\\,0.7))+0.06*(random(0)-0.5)|0.4*(sin(2*PI*659*t)+0.5*sin(2*PI*1979*t)+0.4*sin(2*PI*5021*t))"
    "*exp(-4*mod(t\\,0.9))+0.06*(random(1)-0.5)':s=44100:d=20",
    "surf": "anoisesrc=color=pink:r=44100:d=20:seed=7:a=0.5,tremolo=f=0.3:d=0.7,aformat=channel_layouts=stereo",
    "chord": "aevalsrc=exprs='0.12*(sgn(sin(2*PI*220*t))+sgn(sin(2*PI*277*t))+sgn(sin(2*PI*330*t)))*(0.6+0.4*sin(t))"
    "+0.03*(random(0)-0.5)':s=44100:d=20:c=stereo",
}
CODINGS = {
    "mp3_128": ("mp3", ["-c:a", "libmp3lame", "-b:a", "128k"]),
    "mp3_V0": ("mp3", ["-c:a", "libmp3lame", "-q:a", "0"]),
    "aac_256": ("m4a", ["-c:a", "aac", "-b:a", "256k"]),
    "vorbis_q5": ("ogg", ["-c:a", "libvorbis", "-q:a", "5"]),
    "opus_128": ("opus", ["-c:a", "libopus", "-b:a", "128k"]),
}


def call(*arguments):
    assert shutil.which(arguments[0]), f"{arguments[0]} is missing: install ffmpeg"
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"


def judged(path):
    done = subprocess.run([BINARY, "analyze", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[0])


@pytest.fixture(scope="module", params=SOUNDS)
def master(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "master.wav"
    call("ffmpeg", "-v", "error", "-f", "lavfi", "-i", SOUNDS[request.param], "-c:a", "pcm_s16le", str(path))
    return path


def test_what_was_never_coded_is_clean(master):
    found = judged(master)
    assert found["verdict"] == "clean", found["reasons"]


@pytest.mark.parametrize("coding", CODINGS)
def test_what_an_encoder_had_is_a_transcode(master, coding, tmp_path):
    extension, options = CODINGS[coding]
    lossy, back = tmp_path / f"coded.{extension}", tmp_path / "back.flac"
    call("ffmpeg", "-v", "error", "-i", str(master), *options, str(lossy))
    # Not from the start, so that no frame begins at sample 0.
    call("ffmpeg", "-v", "error", "-i", str(lossy), "-af", "atrim=start_sample=1237", "-ar", "44100", "-sample_fmt", "s16",
         str(back))
    found = judged(back)
    assert found["verdict"] == "transcode", (coding, found["reasons"])
