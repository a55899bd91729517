"""Image files of every kind are read as a viewer shows them, or named; what was changed is counted in a note."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nesa.datasets import image_folder
from nesa.datasets.paths import DataDirs
from nesa.datasets.registry import load
from nesa.errors import DataError

H, W = 6, 5
RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 256, (H, W, 3), np.uint8)
GREY = RNG.integers(0, 256, (H, W), np.uint8)
DEEP = RNG.integers(0, 65536, (H, W), np.uint16)
ALPHA = RNG.integers(0, 256, (H, W), np.uint8)
ON_WHITE = np.round(COLOUR * (ALPHA[..., None] / 255) + 255 * (1 - ALPHA[..., None] / 255))


def folder_with(folder: Path, name: str, save, *, part: str = "train", images=None) -> Path:
    """A small image folder whose first file of class a is made by ``save(path)``, or its bytes."""
    images = images if images is not None else RNG.integers(0, 256, (8, H, W, 3), np.uint8)
    pictures = iter(images)
    for where in ("train", "test"):
        for kind in ("a", "b"):
            (folder / where / kind).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(next(pictures)).save(folder / where / kind / f"other{i}.png")
    path = folder / part / "a" / name
    if isinstance(save, bytes):
        path.write_bytes(save)
    else:
        save(path)
    return folder


def read(tmp_path: Path, name: str, save, channels: int = 3, **params):
    """The decoded file (class a, named before the others) and the notes."""
    folder = folder_with(tmp_path / "images", f"0{name}", save)
    dirs = DataDirs(cache=tmp_path / "cache")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load("folder", {"path": str(folder), **params}, size=(H, W), channels=channels, data=dirs)
    return np.array(found.train_x[0]), found.notes


def saved(image: Image.Image, **options):
    return lambda path: image.save(path, **options)


def rgb(a=COLOUR) -> Image.Image:
    return Image.fromarray(a)


def rgba() -> Image.Image:
    return Image.fromarray(np.dstack([COLOUR, ALPHA]))


def palette(**options):
    image = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(H, W), "L").convert("P")
    image.putpalette([v for colour in COLOUR.reshape(-1, 3) for v in colour])
    return saved(image, **options)


# how the pixels are stored of which the EXIF orientation says how to turn them
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: np.rot90,
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def oriented(orientation: int, upright: np.ndarray):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))), exif=exif)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(tmp_path, orientation, suffix):
    x, notes = read(tmp_path, f"turned{suffix}", oriented(orientation, COLOUR))
    assert np.array_equal(x, COLOUR) and notes == ()  # equal sizes: the size is that of the upright image


def test_a_jpeg_of_a_phone_is_turned(tmp_path):
    smooth = np.add.outer(np.arange(H) * 30, np.arange(W) * 10).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: viewers rotate by 90 degrees clockwise
    x, _ = read(tmp_path, "p.jpg", saved(Image.fromarray(np.rot90(smooth)), exif=exif, quality=100), channels=1)
    assert np.abs(x.astype(int) - smooth).max() <= 4


KINDS = {
    # name: (file, how it is saved, what is read in colour, part of a note)
    "grey": (".png", saved(Image.fromarray(GREY)), np.dstack([GREY] * 3), ""),
    "black and white": (".png", saved(Image.fromarray(GREY > 127)), np.dstack([(GREY > 127) * 255] * 3), ""),
    "palette": (".png", palette(), COLOUR, ""),
    "palette gif": (".gif", palette(), COLOUR, ""),
    "transparent palette": (
        ".png",
        palette(transparency=7),
        np.where((np.arange(30).reshape(H, W) == 7)[..., None], 255, COLOUR),
        "train: 1 images are partly transparent and were put on white: a/0",
    ),
    "opaque alpha": (".png", saved(Image.fromarray(np.dstack([COLOUR, np.full((H, W), 255, np.uint8)]))), COLOUR, ""),
    "alpha": (".png", saved(rgba()), ON_WHITE, "1 images are partly transparent and were put on white"),
    "alpha tiff": (".tif", saved(rgba()), ON_WHITE, "1 images are partly transparent"),
    "grey alpha": (
        ".png",
        saved(Image.fromarray(np.dstack([GREY, ALPHA]), "LA")),
        np.dstack([np.round(GREY * (ALPHA / 255) + 255 - ALPHA)] * 3),
        "1 images are partly transparent",
    ),
    "16 bits png": (
        ".png",
        saved(Image.fromarray(DEEP)),
        np.dstack([np.round(DEEP / 257)] * 3),
        "1 images have 16 bits",
    ),
    "16 bits tiff": (".tiff", saved(Image.fromarray(DEEP)), np.dstack([np.round(DEEP / 257)] * 3), "1 images have 16"),
    "16 bits pgm": (
        ".pgm",
        lambda path: path.write_bytes(b"P5 5 6 65535\n" + DEEP.astype(">u2").tobytes()),
        np.dstack([np.round(DEEP / 257)] * 3),
        "1 images have 16 bits a channel and were reduced to 8",
    ),
    "cmyk tiff": (".tif", saved(rgb().convert("CMYK")), COLOUR, ""),
    "animation": (
        ".gif",
        saved(Image.fromarray(GREY), save_all=True, append_images=[Image.fromarray(255 - GREY)]),
        np.dstack([GREY] * 3),
        "1 files have several pictures, of which the first was taken",
    ),
    "pages": (
        ".tif",
        saved(rgb(), save_all=True, append_images=[rgb(255 - COLOUR)]),
        COLOUR,
        "1 files have several pictures",
    ),
    "wrong suffix": (".bmp", saved(rgb(), format="PNG"), COLOUR, "1 files are of another format than their suffix"),
    "webp": (".webp", saved(rgb(), lossless=True), COLOUR, ""),
    "bmp": (".bmp", saved(rgb()), COLOUR, ""),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_file(tmp_path, kind):
    suffix, save, wanted, note = KINDS[kind]
    x, notes = read(tmp_path, f"file{suffix}", save)
    assert np.abs(x.astype(int) - wanted).max() <= (1 if "alpha" in kind else 0)
    assert note in " ".join(notes) and bool(notes) == bool(note)


def test_cmyk_jpegs_are_inverted_as_adobe_writes_them(tmp_path):
    smooth = np.stack([np.add.outer(np.arange(H) * 20, np.arange(W) * 9 + k * 30) for k in range(3)], axis=2)
    image = Image.fromarray(smooth.astype(np.uint8)).convert("CMYK")
    x, _ = read(tmp_path, "print.jpg", saved(image, quality=100, subsampling=0))
    assert np.abs(x.astype(int) - smooth).max() <= 6


def deep_colour_png() -> bytes:
    """A colour PNG of 16 bits a channel, which Pillow cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.dstack([DEEP] * 3))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colour_of_16_bits_is_reduced_with_a_note(tmp_path):
    x, notes = read(tmp_path, "deep.png", deep_colour_png())
    assert np.abs(x.astype(int) - np.dstack([np.round(DEEP / 257)] * 3)).max() <= 1
    assert "1 images have 16 bits a channel and were reduced to 8: a/0deep.png" in notes[0]


@pytest.mark.parametrize(
    ("name", "save", "words"),
    [
        ("float.tif", saved(Image.fromarray(GREY.astype(np.float32))), "more than 8 bits a pixel .mode F.; convert it"),
        ("whole.tif", saved(Image.fromarray(DEEP.astype(np.int32))), "more than 8 bits a pixel .mode I.; convert it"),
        ("empty.png", b"", "1 of 5 images cannot be decoded: a/0empty.png"),
        ("text.jpg", b"hello", "1 of 5 images cannot be decoded: a/0text.jpg"),
        ("cut.png", deep_colour_png()[:120], "1 of 5 images cannot be decoded: a/0cut.png"),
        (
            "huge.png",
            deep_colour_png().replace(struct.pack(">II", W, H), struct.pack(">II", 60000, 60000)),
            "0huge.png",
        ),
        ("large.png", saved(Image.new("1", (9500, 9500))), "a/0large.png .*9500.*pixels"),
        ("small.png", saved(Image.new("L", (1, 1))), "5 x 6, but train/a/0small.png is 1 x 1; make them equal"),
    ],
)
def test_files_that_are_refused_are_named(tmp_path, name, save, words):
    with pytest.raises(DataError, match=words):
        read(tmp_path, name, save)


def test_an_image_of_one_pixel_is_named(tmp_path):
    x, notes = read(tmp_path, "one.png", saved(Image.new("L", (1, 1), 77)), channels=1, mixed=True)
    assert np.array_equal(x, np.full((H, W), 77))
    assert "train: 1 images are one pixel high or wide: a/0one.png" in notes[0] and "one even grey" in notes[1]


def test_sizes_are_compared_over_both_parts(tmp_path):
    """Each part has one size of its own: once each was resized to the network's without a word."""
    folder = tmp_path / "images"
    for part, size in (("train", (H, W)), ("test", (H + 2, W))):
        for kind in ("a", "b"):
            (folder / part / kind).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(RNG.integers(0, 256, size, np.uint8)).save(folder / part / kind / f"{i}.png")
    with pytest.raises(DataError, match=r"2 different sizes: most are 5 x 6, but test/a/0.png is 5 x 8"):
        load("folder", {"path": str(folder)}, size=(H, W), data=DataDirs(cache=tmp_path / "cache"))


def test_colour_in_one_part_alone_is_named(tmp_path):
    folder = tmp_path / "images"
    for part, shape in (("train", (H, W, 3)), ("test", (H, W))):
        for kind in ("a", "b"):
            (folder / part / kind).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(RNG.integers(0, 256, shape, np.uint8)).save(folder / part / kind / f"{i}.png")
    dirs = DataDirs(cache=tmp_path / "cache")
    with pytest.warns(UserWarning, match="train images are in colour and test images are grey"):
        load("folder", {"path": str(folder)}, size=(H, W), channels=3, data=dirs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("folder", {"path": str(folder)}, size=(H, W), channels=1, data=dirs)


def test_entries_of_the_cache_from_before_are_not_read(tmp_path, monkeypatch):
    folder = folder_with(tmp_path / "images", "0.png", oriented(6, COLOUR))
    options = {"size": (H, W), "channels": 3, "data": DataDirs(cache=tmp_path / "cache")}
    monkeypatch.setattr(image_folder, "DECODER", 1)
    load("folder", {"path": str(folder)}, **options)
    monkeypatch.undo()
    load("folder", {"path": str(folder)}, **options)
    assert len(list((tmp_path / "cache" / "decoded").iterdir())) == 2
