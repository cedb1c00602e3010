"""Audio files that lie: small whole ones of every format, and what a seed makes of them."""
import random
import struct
import subprocess

HOURS_LEN = 442 * 1024  # a file of this size that claims ten hours
# Name, extension, and how ffmpeg makes it.
FORMATS = [
    ("flac", "flac", "-sample_fmt s16"),
    ("flac24", "flac", "-ar 96000 -sample_fmt s32"),
    ("flacogg", "oga", "-c:a flac -sample_fmt s16"),
    ("wav", "wav", "-c:a pcm_s16le"),
    ("wavfloat", "wav", "-c:a pcm_f32le"),
    ("aiff", "aiff", "-c:a pcm_s16be -write_id3v2 1"),
    ("alac", "m4a", "-c:a alac"),
    ("mp3", "mp3", "-b:a 128k"),
    ("mp3vbr", "mp3", "-q:a 4"),
    ("aac", "m4a", "-c:a aac -b:a 128k"),
    ("adts", "aac", "-c:a aac -b:a 96k"),
    ("vorbis", "ogg", "-c:a libvorbis -q:a 4"),
    ("opus", "opus", "-ar 48000 -c:a libopus -b:a 96k"),
]
EXTENSIONS = sorted({extension for _, extension, _ in FORMATS})


def originals(folder):
    """Whole files: name -> (extension, bytes). Two to four seconds each, not two the same sound."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for n, (name, extension, how) in enumerate(FORMATS):
        path = folder / f"{name}.{extension}"
        sound = f"anoisesrc=c=pink:a=0.2:d={2 + n % 3}:seed={n},aformat=channel_layouts=stereo,tremolo=f={2 + n}:d=0.6"
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", sound, "-ar", "44100", *how.split(),
                        "-metadata", f"title=Track {n}", "-metadata", "artist=Nobody", path], check=True)
        made[name] = (extension, path.read_bytes())
    return made


CRC = []
for value in range(256):
    value <<= 24
    for _ in range(8):
        value = (value << 1) ^ (0x104C11DB7 if value & 0x80000000 else 0)
    CRC.append(value)


def sealed(data):
    """Ogg pages with their checksums made right again, so that what they claim is believed."""
    data, at = bytearray(data), 0
    while data[at:at + 4] == b"OggS" and at + 27 <= len(data):
        table = data[at + 27:at + 27 + data[at + 26]]
        end = at + 27 + len(table) + sum(table)
        page = data[at:end]
        page[22:26] = bytes(4)
        crc = 0
        for byte in page:
            crc = ((crc << 8) & 0xFFFFFFFF) ^ CRC[(crc >> 24) ^ byte]
        data[at + 22:at + 26] = struct.pack("<I", crc)
        at = end
    return bytes(data)


class Mutator:
    """All choices come from one seed."""

    def __init__(self, seed, whole):
        self.dice, self.whole = random.Random(seed), whole
        self.kinds = [self.bits, self.header_bits, self.truncated, self.zeros, self.lies, self.numbers, self.extension,
                      self.ten_hours, self.giant_picture, self.spliced, self.noise]

    def mutants(self, count):
        """(kind, name of the original, extension, bytes), each kind and original in turn."""
        names = list(self.whole)
        for n in range(count):
            kind = self.kinds[n % len(self.kinds)]
            name = names[(n // len(self.kinds) + n) % len(names)]
            extension, data = self.whole[name]
            made = kind(name, bytearray(data))
            if isinstance(made, tuple):
                extension, made = made
            yield kind.__name__, name, extension, bytes(made)

    def bits(self, _name, data, within=None):
        for _ in range(self.dice.choice([1, 1, 4, 30, 300])):
            data[self.dice.randrange(min(within or len(data), len(data)))] ^= 1 << self.dice.randrange(8)
        return data

    def header_bits(self, name, data):
        data = self.bits(name, data, self.dice.choice([16, 64, 400]))
        return sealed(data) if self.dice.random() < 0.5 else data

    def truncated(self, _name, data):
        return data[:self.dice.choice([0, 1, self.dice.randrange(64), self.dice.randrange(4096)]
                                      + 4 * [self.dice.randrange(len(data))])]

    def zeros(self, _name, data):
        for _ in range(self.dice.choice([1, 1, 5])):
            at = self.dice.randrange(len(data))
            upto = min(at + self.dice.choice([8, 512, 20_000, len(data)]), len(data))
            data[at:upto] = bytes(upto - at)
        return data

    def number(self):
        return self.dice.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0,
                                 self.dice.randrange(1 << 32)])

    def numbers(self, _name, data):
        """Numbers that cannot be, anywhere in the first kilobyte."""
        for _ in range(self.dice.choice([1, 2, 8])):
            at = self.dice.randrange(4, 1024)
            size = self.dice.choice(["<H", ">H", "<I", ">I"])
            number = struct.pack(size, self.number() & (0xFFFF if size[1] == "H" else 0xFFFFFFFF))
            data[at:at + len(number)] = number
        return sealed(data) if self.dice.random() < 0.5 else data

    def lies(self, name, data):
        """Numbers that cannot be, where the format keeps its numbers."""
        fields = {
            "flac": [8, 10, 12, 15, 18, 20, 22, 26], "flacogg": [41, 45, 53, 55, 59], "wav": [4, 16, 20, 22, 24, 28, 32, 34, 40],
            "aiff": [4, 16, 20, 22, 26, 28, 34], "mp3": [0, 1, 2, 3], "adts": [1, 2, 3, 4, 5, 6],
            "vorbis": [6, 26, 27, 35, 39, 40, 44, 48, 56], "opus": [6, 26, 36, 37, 38, 40, 44, 46],
        }
        marks = [b"mvhd", b"tkhd", b"mdhd", b"stsd", b"stts", b"stsc", b"stsz", b"stco", b"esds", b"alac", b"mp4a", b"moov",
                 b"Xing", b"Info", b"LAME", b"OpusTags", b"\x03vorbis", b"\x05vorbis", b"data", b"COMM", b"SSND"]
        places = list(fields.get(name.removesuffix("24").removesuffix("float").removesuffix("vbr"), []))
        for mark in marks:
            at = data.find(mark)
            if at >= 4:
                places += [at - 4, *range(at + len(mark), at + len(mark) + 40, 2)]
        if data[:3] == b"ID3":
            places += [5, 6, 10, 14, 18]
        for _ in range(self.dice.choice([1, 1, 3])):
            at = self.dice.choice(places)
            number = struct.pack(self.dice.choice(["<I", ">I"]), self.number())
            number = number[:self.dice.choice([1, 2, 4])]
            data[at:at + len(number)] = number
        return sealed(data)

    def extension(self, _name, data):
        extension = self.dice.choice(EXTENSIONS)
        return extension, data

    def ten_hours(self, name, data):
        """442 KB that say they are ten hours."""
        samples = 36_000 * 44_100
        if name.startswith("flac") and data[:4] == b"fLaC":
            samples = 36_000 * (96_000 if name == "flac24" else 44_100)
            data[21] = data[21] & 0xF0 | samples >> 32
            data[22:26] = struct.pack(">I", samples & 0xFFFFFFFF)
        elif name in ("wav", "wavfloat"):
            at = data.find(b"data") + 4
            data[at:at + 4] = struct.pack("<I", self.dice.choice([0xFFFFFFFF, 0xFFFFFFF0, 36_000 * 88_200]))
            data[4:8] = struct.pack("<I", 0xFFFFFFFF)
        elif name == "aiff":
            at = data.find(b"COMM") + 10
            data[at:at + 4] = struct.pack(">I", samples)
            at = data.find(b"SSND") + 4
            data[at:at + 4] = struct.pack(">I", 0xFFFFFFFF)
        elif name in ("alac", "aac"):
            for mark, field, size in ((b"mvhd", 16, 4), (b"mdhd", 16, 4), (b"tkhd", 20, 4), (b"stts", 8, 4)):
                at = data.find(mark) + 4 + field
                data[at:at + size] = struct.pack(">I", samples if mark != b"stts" else samples // 1_024)
        elif name.startswith("mp3"):
            at = max(data.find(b"Xing"), data.find(b"Info"))
            data[at + 8:at + 12] = struct.pack(">I", samples // 1_152)
        elif data[:4] == b"OggS":
            at = data.rfind(b"OggS")
            data[at + 6:at + 14] = struct.pack("<q", self.dice.choice([samples, 36_000 * 48_000, (1 << 62) - 1]))
            return sealed(data)
        # Elsewhere the rest of the file is what it was, over and over; MP4 has its index behind the sound.
        if name not in ("alac", "aac"):
            data = (data + data[len(data) // 2:] * (HOURS_LEN // len(data) * 2 + 2))[:HOURS_LEN]
        return data

    def giant_picture(self, name, data):
        """A picture of some megabytes, or one that only says so."""
        size = self.dice.choice([300_000, 2_000_000, 9_000_000, 16_000_000])
        there = size if self.dice.random() < 0.3 else self.dice.randrange(200_000)
        picture = b"\xff\xd8\xff" + self.dice.randbytes(4096) + bytes(max(there - 4099, 0))
        if data[:4] == b"fLaC":
            head = struct.pack(">II", 3, 10) + b"image/jpeg" + bytes(4 + 16) + struct.pack(">I", size)
            block = b"\x06" + struct.pack(">I", min(len(head) + size, 0xFFFFFF))[1:] + head + picture
            return data[:42] + block + data[42:]
        apic = b"\0image/jpeg\0\x03\0"
        frame = b"APIC" + struct.pack(">I", len(apic) + size) + b"\0\0" + apic + picture
        total = len(apic) + size + 10
        tag = b"ID3\x03\0\0" + bytes((total >> shift) & 0x7F for shift in (21, 14, 7, 0)) + frame
        if name in ("alac", "aac"):
            inside = b"data" + struct.pack(">II", 13, 0) + picture
            for box in (b"", b"covr", b"ilst"):
                inside = box + struct.pack(">I", size + 16) + inside if not box else box + inside
                if box:
                    inside = struct.pack(">I", len(inside) + 4) + inside
            meta = b"meta" + bytes(4) + inside
            udta = b"udta" + struct.pack(">I", len(meta) + 4) + meta
            udta = struct.pack(">I", len(udta) + 4) + udta
            at = data.find(b"moov") - 4
            grown = struct.unpack(">I", data[at:at + 4])[0] + len(udta)
            data[at:at + 4] = struct.pack(">I", grown)
            return data + udta
        if name.startswith("wav"):
            return data + b"id3 " + struct.pack("<I", len(tag)) + tag
        if name == "aiff":
            return data + b"ID3 " + struct.pack(">I", len(tag)) + tag
        if data[:4] == b"OggS":
            for mark in (b"OpusTags", b"\x03vorbis"):
                at = data.find(mark)
                if at >= 0:
                    at += len(mark)
                    data[at:at + 4] = struct.pack("<I", size)
            return sealed(data)
        return tag + data

    def spliced(self, name, data):
        other = bytearray(self.whole[self.dice.choice(list(self.whole))][1])
        what = self.dice.random()
        if what < 0.4:
            return data[:self.dice.randrange(len(data))] + other[self.dice.randrange(len(other)):]
        at = self.dice.randrange(len(data))
        if what < 0.7:
            return data[:at] + self.dice.randbytes(self.dice.randrange(1, 5_000)) + data[at:]
        if what < 0.85:
            return data[:at] + data[at + self.dice.randrange(1, 5_000):]
        return data * self.dice.choice([2, 3])

    def noise(self, name, data):
        keep = self.dice.choice([0, 4, 12, 42, 200])
        if self.dice.random() < 0.3 and name == "wavfloat":
            # What are no numbers, endless ones, and such as no sound has.
            bad = [struct.pack("<I", n) for n in (0x7FC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 1)]
            at = data.find(b"data") + 8
            for _ in range(40):
                place = at + 4 * self.dice.randrange((len(data) - at) // 4)
                data[place:place + 4] = self.dice.choice(bad)
            return data
        return data[:keep] + self.dice.randbytes(self.dice.choice([0, 100, 10_000, 150_000]))
