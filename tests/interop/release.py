"""A release as MusicBrainz has it, with tracks of twenty seconds: its music, the catalogs that know it, and a library in
which everything is wrong with it."""
import base64
import gzip
import json
import os
import subprocess
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from world import BINARY, sha256

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "musicbrainz"
RELEASE = "6a76904c-0caf-34e1-8cc2-7d95e86a3824"
SHORTER = 64  # tracks of twenty minutes become some of twenty seconds


def release():
    """The fixture, with its tracks shortened."""
    found = json.loads((FIXTURES / "mb_release_lift_your_skinny_fists_us_2cd_2000.json").read_text())
    for medium in found["media"]:
        for track in medium["tracks"]:
            track["length"] //= SHORTER
            track["recording"]["length"] = track["length"]
    return found


def tracks(found):
    return [(m["position"], t["position"], t["title"], t["length"], t["recording"]["id"])
            for m in found["media"] for t in m["tracks"]]


TRACKS = {(m, p): (title, ms, recording) for m, p, title, ms, recording in tracks(release())}
ARTIST, ALBUM = "Godspeed You Black Emperor!", "Lift Yr. Skinny Fists Like Antennas to Heaven!"


def words(packed):
    """The words of a fingerprint in AcoustID's text form."""
    data = base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
    count = int.from_bytes(data[1:4], "big")
    bits = int.from_bytes(data[4:], "little")
    at, small, ended = 0, [], 0
    while ended < count:
        value = bits >> at & 7
        at += 3
        small.append(value)
        ended += value == 0
    at = (at + 7) // 8 * 8
    out, last, word, bit = [], 0, 0, 0
    for value in small:
        if value == 0:
            last ^= word
            out.append(last)
            word = bit = 0
            continue
        if value == 7:
            value += bits >> at & 31
            at += 5
        bit += value
        word |= 1 << (bit - 1)
    return out


def error_rate(a, b):
    """The smallest share of differing bits over small shifts."""
    best = 1.0
    for shift in range(-16, 17):
        pairs = list(zip(a[max(0, shift):], b[max(0, -shift):]))
        if len(pairs) >= 30:
            best = min(best, sum((x ^ y).bit_count() for x, y in pairs) / (32 * len(pairs)))
    return best


class Catalogs:
    """MusicBrainz, AcoustID and nothing else."""

    def __init__(self, found):
        self.sounds, self.recordings, self.asked = {}, {}, []
        here = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                here.asked.append(self.path)
                if self.path.startswith(f"/mb/release/{RELEASE}"):
                    self.answer(200, found)
                elif self.path.startswith("/mb/recording/") and self.path[14:50] in here.recordings:
                    self.answer(200, here.recordings[self.path[14:50]])
                elif self.path.startswith("/mb/url") and "release%2F1" in self.path:
                    self.answer(200, {"relations": [{"type": "discogs", "release": {"id": RELEASE}}]})
                else:
                    self.answer(404, {"error": "Not Found"})

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                form = urllib.parse.parse_qs(body.decode())
                heard = words(form["fingerprint"][0])
                here.asked.append("lookup")
                results = [{"id": f"{n:08x}-0000-4000-8000-000000000000", "score": 1 - rate,
                            "recordings": [here.short(recording)]}
                           for n, (recording, known) in enumerate(here.sounds.items())
                           if (rate := error_rate(heard, known)) < 0.1]
                self.answer(200, {"status": "ok", "results": sorted(results, key=lambda r: -r["score"])})

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def short(self, recording):
        """A recording as AcoustID names it."""
        known = self.recordings.get(recording)
        return {"id": recording, **({"duration": known["length"] / 1000, "title": known["title"]} if known else {})}

    def has(self, recording, title, artist, ms):
        """MusicBrainz has this recording, whether it is on a release or not."""
        who = {"name": artist, "joinphrase": "", "artist": {"id": recording, "name": artist, "sort-name": artist}}
        self.recordings[recording] = {"id": recording, "title": title, "length": ms, "artist-credit": [who]}

    def knows(self, recording, file):
        told = subprocess.run([BINARY, "analyze", "--fingerprint", file], capture_output=True, check=True, text=True,
                              env={k: v for k, v in os.environ.items() if not k.startswith("SLSKDN_")})
        self.sounds[recording] = json.loads(told.stdout)["fingerprint"]


def compose(path, seed, ms, title, track, *options, album="Lift Yr. Skinny Fists Like Antennas to Heaven!"):
    """A tune of its own for every seed: full-band noise that comes and goes under changing chords."""
    path.parent.mkdir(parents=True, exist_ok=True)
    steps = "+".join(f"0.11*sin(2*PI*t*{60 * (seed % 5 + 2)}*(1+floor(mod(t*{1.3 + 0.37 * seed}+{k},{5 + k}))/{3 + k}))"
                     for k in range(4))
    noise = f"0.05*(random({seed})-0.5)*(1+sin(2*PI*t*{0.5 + seed / 7}))"
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", f"aevalsrc='{steps}+{noise}':s=44100:d={ms / 1000}",
                    "-ac", "2", "-sample_fmt", "s16", "-metadata", f"title={title}", "-metadata", f"track={track}",
                    "-metadata", "artist=Godspeed You Black Emperor!", "-metadata", f"album={album}", *options, str(path)],
                   check=True, stdin=subprocess.DEVNULL)
    return path


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True, timeout=120)


def tags(place, with_release=True):
    """Options that name a track as taggers do."""
    title, _, recording = TRACKS[place]
    said = {"title": title, "artist": ARTIST, "album": ALBUM, "track": place[1], "disc": place[0],
            "MUSICBRAINZ_TRACKID": recording, **({"MUSICBRAINZ_ALBUMID": RELEASE} if with_release else {})}
    return [x for name, value in said.items() for x in ("-metadata", f"{name}={value}")]


def tagged_mp3(path, source, place, kbps):
    """An MP3 whose ID3v2.4 tag names recording and release as Picard's does, which ffmpeg cannot write."""
    title, _, recording = TRACKS[place]

    def frame(name, body):
        return name + len(body).to_bytes(4, "big") + b"\0\0" + body

    def text(words):
        return b"\3" + words.encode()
    frames = b"".join([
        frame(b"TIT2", text(title)), frame(b"TPE1", text(ARTIST)), frame(b"TALB", text(ALBUM)),
        frame(b"COMM", b"\3eng\0of the cassette"), frame(b"TRCK", text(str(place[1]))), frame(b"TPOS", text(str(place[0]))),
        frame(b"UFID", b"http://musicbrainz.org\0" + recording.encode()),
        frame(b"TXXX", b"\3MusicBrainz Album Id\0" + RELEASE.encode())])
    size = len(frames)
    head = b"ID3\4\0\0" + bytes(size >> shift & 0x7f for shift in (21, 14, 7, 0))
    bare = path.with_suffix(".bare.mp3")
    # Sizes of frames are seven bits a byte, too; these fit into one.
    assert all(len(part) < 100 for part in (title, ARTIST, ALBUM))
    ffmpeg("-i", source, "-map_metadata", "-1", "-id3v2_version", "0", "-write_id3v1", "0", "-b:a", f"{kbps}k", bare)
    path.write_bytes(head + frames + bare.read_bytes())
    bare.unlink()


def damage(path):
    """Every 4 KiB a run of other bytes, from behind the headers and tags to the end."""
    data = bytearray(path.read_bytes())
    for at in range(32_768, len(data) - 64, 4096):
        data[at:at + 64] = bytes(byte ^ 0x5a for byte in data[at:at + 64])
    path.write_bytes(data)


class Library:
    """An album with a transcode, a damaged file and a poor copy, and one track missing; a better copy elsewhere."""

    def __init__(self, root, music):
        self.root = root
        self.album = root / "Godspeed" / "Lift"
        self.files = {}
        for place, name in {(1, 1): "CD1/01 Storm.flac", (1, 2): "CD1/02 Static.flac", (2, 1): "CD2/01 Sleep.mp3"}.items():
            self.files[place] = self.album / name
            self.files[place].parent.mkdir(parents=True, exist_ok=True)
        lossy = root / "lossy.mp3"
        ffmpeg("-i", music[1, 1], "-b:a", "96k", lossy)
        ffmpeg("-i", lossy, "-map_metadata", "-1", *tags((1, 1)), "-sample_fmt", "s16", self.files[1, 1])
        lossy.unlink()
        ffmpeg("-i", music[1, 2], "-c", "copy", *tags((1, 2)), self.files[1, 2])
        damage(self.files[1, 2])
        tagged_mp3(self.files[2, 1], music[2, 1], (2, 1), 64)
        better = root / "Elsewhere" / "Sleep.flac"
        better.parent.mkdir()
        ffmpeg("-i", music[2, 1], "-c", "copy", *tags((2, 1), with_release=False), better)
        self.before = {place: sha256(path) for place, path in self.files.items()}
