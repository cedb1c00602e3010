"""One file measured by `slskdn analyze` and by the programs everybody knows: the same figures, within the bars."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BINARY = os.environ.get("SLSKDN_BINARY", str(Path(__file__).resolve().parents[2] / "target" / "debug" / "slskdn"))

# What makes each sound. Drums and voices that come and go, so that range, dynamics and fingerprint have something.
SOUNDS = {
    "song": "aevalsrc=exprs='0.3*sin(2*PI*(220+110*floor(mod(t\\,8)))*t)*exp(-3*mod(t\\,0.5))+0.2*sin(2*PI*(330+55*floor"
    "(mod(t*1.5\\,7)))*t)*(0.2+0.8*gt(mod(t\\,30)\\,12))+0.05*(random(0)-0.5)|0.3*sin(2*PI*(220+110*floor(mod(t\\,8)))*t)"
    "*exp(-3*mod(t\\,0.5))+0.2*sin(2*PI*(440+70*floor(mod(t*0.8\\,5)))*t)*(0.2+0.8*gt(mod(t\\,30)\\,12))':s=44100:d=75",
    # Its crests are cut below full scale: drmeter answers nan for a sample at or over it, and lossy codecs overshoot. It
    # grows, for drmeter counts blocks of equal level once.
    "loud": "aevalsrc=exprs='clip(1.4*sin(2*PI*(180+90*floor(mod(t\\,6)))*t)*(0.4+0.6*exp(-4*mod(t\\,0.4)))*(0.4+t/75)\\,"
    "-0.8\\,0.8)':c=stereo:s=48000:d=45",
}
CLIPPED = "aevalsrc=exprs='clip(1.4*sin(2*PI*220*t)\\,-1\\,1)':c=stereo:s=48000:d=5"
CODINGS = {
    "wav": ("wav", ["-c:a", "pcm_s16le"]),
    "wav24": ("wav", ["-c:a", "pcm_s24le"]),
    "flac": ("flac", ["-c:a", "flac"]),
    "mp3": ("mp3", ["-c:a", "libmp3lame", "-b:a", "192k"]),
    "aac": ("m4a", ["-c:a", "aac", "-b:a", "192k"]),
    "vorbis": ("ogg", ["-c:a", "libvorbis", "-q:a", "6"]),
    "opus": ("opus", ["-c:a", "libopus", "-b:a", "128k"]),
}
LOSSLESS = {"wav", "wav24", "flac"}


def call(*arguments, accepted=(0,)):
    program = arguments[0]
    assert shutil.which(program), f"{program} is missing: install ffmpeg and libchromaprint-tools"
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode in accepted, f"{arguments}: {done.stderr}"
    return done


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    files = {}
    for sound, source in SOUNDS.items():
        master = folder / f"{sound}.master.wav"
        call("ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-c:a", "pcm_s24le", str(master))
        for coding, (extension, options) in CODINGS.items():
            path = folder / f"{sound}.{coding}.{extension}"
            call("ffmpeg", "-v", "error", "-i", str(master), *options, str(path))
            files[sound, coding] = path
    return files


def ours(path, fine=(0,)):
    done = subprocess.run([BINARY, "analyze", "--fingerprint", str(path)], capture_output=True, text=True)
    assert done.returncode in fine, done.stderr
    return json.loads(done.stdout.splitlines()[0])


def ebur128(path):
    """The last of the values that the filter writes beside each 100 ms: three decimals, where its summary has one."""
    keys = "ebur128=metadata=1:peak=true,ametadata=print:file=-"
    lines = call("ffmpeg", "-v", "error", "-i", str(path), "-map", "0:a", "-af", keys, "-f", "null", "-").stdout
    last = lambda key: float(re.findall(rf"lavfi\.r128\.{key}=(\S+)", lines)[-1])
    summary = call("ffmpeg", "-hide_banner", "-nostats", "-i", str(path), "-map", "0:a", "-af", "ebur128=peak=true",
                   "-f", "null", "-").stderr
    peak = float(re.findall(r"Peak:\s+(\S+) dBFS", summary)[-1])
    return last("I"), last("LRA"), peak


def drmeter(path):
    text = call("ffmpeg", "-hide_banner", "-nostats", "-i", str(path), "-map", "0:a", "-af", "drmeter", "-f", "null",
                "-").stderr
    return float(re.search(r"Overall DR: (\S+)", text).group(1))


def fpcalc(path):
    # 1.5.1 beside FFmpeg 5 takes the end of a file shorter than its 120 s for an error, after printing what it is asked for.
    text = call("fpcalc", "-raw", str(path), accepted=(0, 3)).stdout
    return [int(word) for word in re.search(r"FINGERPRINT=(\S+)", text).group(1).split(",")]


EVERY = [pytest.param(sound, coding, id=f"{sound}-{coding}") for sound in SOUNDS for coding in CODINGS]


@pytest.mark.parametrize("sound,coding", EVERY)
def test_loudness_is_ffmpegs(corpus, sound, coding):
    path = corpus[sound, coding]
    measured = ours(path)
    integrated, loudness_range, peak = ebur128(path)
    assert measured["loudness_lufs"] == pytest.approx(integrated, abs=0.05)
    assert measured["loudness_range_lu"] == pytest.approx(loudness_range, abs=0.3)
    assert measured["true_peak_dbtp"] == pytest.approx(peak, abs=0.2 + 0.05)  # the summary has one decimal


@pytest.mark.parametrize("sound,coding", EVERY)
def test_dynamic_range_is_drmeters(corpus, sound, coding):
    path = corpus[sound, coding]
    assert ours(path)["dynamic_range_dr"] == pytest.approx(drmeter(path), abs=1.0)


@pytest.mark.parametrize("sound,coding", EVERY)
def test_fingerprint_is_fpcalcs(corpus, sound, coding):
    path = corpus[sound, coding]
    measured, wanted = ours(path)["fingerprint"], fpcalc(path)
    assert abs(len(measured) - len(wanted)) <= 1
    pairs = list(zip(measured, wanted))
    if coding in LOSSLESS:
        assert sum(a == b for a, b in pairs) / len(pairs) >= 0.99
    else:
        wrong = sum((a ^ b).bit_count() for a, b in pairs)
        assert wrong / (32 * len(pairs)) <= 0.003


def test_clipping_shows_where_it_is(corpus, tmp_path):
    path = tmp_path / "clipped.flac"
    call("ffmpeg", "-v", "error", "-f", "lavfi", "-i", CLIPPED, "-sample_fmt", "s16", str(path))
    # Each crest of each channel's 220 waves a second.
    assert ours(path)["clipping_runs"] == pytest.approx(2 * 2 * 220 * 5, rel=0.01)
    assert ours(corpus["song", "flac"])["clipping_runs"] == 0
