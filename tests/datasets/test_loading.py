"""Where data come from and what is refused: folders, files, the cache, downloads, the user's own arrays."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import sys
import tarfile
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nesa.datasets import cache, checks, download, image_folder, pixels, registry
from nesa.datasets.source import Arrays
from nesa.errors import DataError

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (40, 6, 5, 3), np.uint8)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder and a cache of one's own."""
    monkeypatch.delenv("NESA_DATA", raising=False)
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    return registry.DataDirs(data=tmp_path / "data", cache=tmp_path / "cache")


def write_tree(folder: Path, classes=("ant", "bee"), train=6, test=3, suffix=".png", pictures=COLOURS):
    """DIR/{train,test}/CLASS/*; every picture is another one. Returns the files by part and class."""
    made, pool = {}, iter(pictures)
    for part, count in (("train", train), ("test", test)):
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                made.setdefault((part, name), []).append(folder / part / name / f"{i:03}{suffix}")
                Image.fromarray(next(pool)).save(made[part, name][-1])
    return made


def load(name, data, size=(6, 5), **params):
    channels = params.pop("channels", 1)
    return registry.load(name, params, size=size, channels=channels, data=data)


# Pixels --------------------------------------------------------------------------------------------------------------


def test_grey_is_torchvisions_grayscale_to_the_last_bit():
    from torchvision.transforms import Grayscale

    every = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    assert np.array_equal(pixels.grey(every), np.asarray(Grayscale()(Image.fromarray(every))))


@pytest.mark.parametrize("size", [(3, 4), (12, 9)])
def test_resizing_is_torchvisions(size):
    from torchvision.transforms import InterpolationMode, Resize

    resize = Resize(size, InterpolationMode.BILINEAR, antialias=True)
    for pictures in (COLOURS, pixels.grey(COLOURS)):
        ours = pixels.to_input_shape(pictures, size, 3 if pictures.ndim == 4 else 1)
        for picture, mine in zip(pictures, ours, strict=True):
            assert np.array_equal(mine, np.asarray(resize(Image.fromarray(picture))))


def test_grey_images_fill_three_channels_alike():
    grey = pixels.grey(COLOURS)
    assert np.array_equal(pixels.to_input_shape(grey, (6, 5), 3), np.stack([grey] * 3, axis=3))


# Where ---------------------------------------------------------------------------------------------------------------


def test_places_are_looked_at_in_order(tmp_path, monkeypatch):
    monkeypatch.setenv("NESA_DATA", str(tmp_path / "variable"))
    dirs = registry.DataDirs(tmp_path / "named", tmp_path / "cache")
    assert dirs.roots == (tmp_path / "named", tmp_path / "variable", tmp_path / "cache")
    monkeypatch.delenv("NESA_DATA")
    assert registry.DataDirs(None, tmp_path / "cache").roots == (tmp_path / "cache",)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    if sys.platform == "linux":
        assert registry.DataDirs().roots == (tmp_path / "home" / "nesa",)


def test_the_named_folder_wins_over_the_variable(data, tmp_path, monkeypatch):
    write_tree(tmp_path / "variable" / "cifar10", pictures=255 - COLOURS)
    monkeypatch.setenv("NESA_DATA", str(tmp_path / "variable"))
    assert load("cifar10", data, channels=3).origin.endswith("variable/cifar10")
    write_tree(data.data / "cifar10")
    found = load("cifar10", data, channels=3)
    assert found.origin == f"image folder {data.data / 'cifar10'}"
    assert np.array_equal(found.train_x, COLOURS[:12])


def test_a_path_is_taken_from_here_then_from_the_data_folder(data, tmp_path):
    write_tree(data.data / "mine")
    assert load("folder", data, path="mine").origin == f"image folder {data.data / 'mine'}"
    write_tree(tmp_path / "mine", classes=("cat", "dog"))
    assert load("folder", data, path="mine").class_names == ("cat", "dog")
    assert load("folder", data, path=str(data.data / "mine")).class_names == ("ant", "bee")
    with pytest.raises(DataError, match=r"does not exist; looked for .*/nowhere, .*data/nowhere"):
        load("folder", data, path="nowhere")


# Image folders -------------------------------------------------------------------------------------------------------


def test_folder_gives_classes_in_the_order_of_names_and_pixels_as_they_are(data):
    write_tree(data.data / "mine", classes=("bee", "ant"))
    found = load("folder", data, path="mine", channels=3)
    assert found.class_names == ("ant", "bee")
    assert np.array_equal(found.train_y, [0] * 6 + [1] * 6) and np.array_equal(found.test_y, [0] * 3 + [1] * 3)
    assert np.array_equal(found.train_x, np.concatenate([COLOURS[6:12], COLOURS[:6]]))
    grey = load("folder", data, path="mine")
    assert np.array_equal(grey.train_x, pixels.grey(np.array(found.train_x)))
    assert registry.find("folder").classes({"path": str(data.data / "mine")}) == 2


def test_modes_are_brought_to_one(data):
    folder = data.data / "mine"
    made = write_tree(folder)
    grey = Image.fromarray(pixels.grey(COLOURS)[0])
    first, second, third = made["train", "ant"][:3]
    grey.save(first)
    Image.fromarray(COLOURS[1]).convert("RGBA").save(second)
    Image.fromarray(COLOURS[2]).convert("P").save(third)
    found = load("folder", data, path="mine", channels=3)
    assert np.array_equal(found.train_x[0], np.stack([np.asarray(grey)] * 3, axis=2))
    assert np.array_equal(found.train_x[1], COLOURS[1])


def test_deep_images_are_refused(data):
    made = write_tree(data.data / "mine")
    Image.fromarray(np.arange(30, dtype=np.float32).reshape(6, 5)).save(made["train", "bee"][0], format="TIFF")
    with pytest.raises(DataError, match=r"bee/000.png: the image has more than 8 bits"):
        load("folder", data, path="mine")


def test_mixed_sizes_are_refused_unless_allowed(data):
    made = write_tree(data.data / "mine")
    Image.fromarray(COLOURS[0][:4]).save(made["train", "bee"][2])
    with pytest.raises(
        DataError, match=r"2 different sizes: most are 5 x 6, but train/bee/002.png is 5 x 4; .*mixed: true"
    ):
        load("folder", data, path="mine")
    assert load("folder", data, path="mine", mixed=True).train_x.shape == (12, 6, 5)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f, m: [p.unlink() for p in m["test", "bee"]], "test/bee: this class has no image"),
        (lambda f, m: [p.unlink() for p in m["train", "ant"]], "train/ant: this class has no image"),
        (lambda f, m: (f / "train" / "ant").rename(f / "train" / "wasp"), "only in train: wasp; only in test: ant"),
        (lambda f, m: (f / "test").rename(f / "testing"), "expected train/CLASS/"),
        (lambda f, m: [os.truncate(p, 40) for p in m["train", "ant"][:1]], "1 of 12 images cannot be decoded: ant/000"),
        (lambda f, m: [p.write_bytes(b"") for p in m["train", "ant"]], "6 of 12 .* ant/004.* and 1 more; repair"),
    ],
)
def test_every_bad_folder_has_its_sentence(damage, words, data):
    folder = data.data / "mine"
    damage(folder, write_tree(folder))
    with pytest.raises(DataError, match=words):
        load("folder", data, path="mine")
    assert not list((data.cache).glob("decoded/*"))


def test_one_corrupt_image_in_many_is_named_and_left_out(data):
    pictures = RNG.integers(0, 256, (240, 6, 5, 3), np.uint8)
    made = write_tree(data.data / "mine", train=110, test=5, pictures=pictures)
    os.truncate(made["train", "ant"][7], 60)
    (data.data / "mine" / "train" / "ant" / "notes.txt").write_text("hello")
    with pytest.warns(UserWarning) as caught:
        found = load("folder", data, path="mine")
    said = " ".join(str(w.message) for w in caught)
    assert "1 of 220 images cannot be decoded: ant/007.png" in said and "left out" in said
    assert "1 files are not images and were passed over: ant/notes.txt" in said
    assert len(found.train_x) == 219 and np.array_equal(np.bincount(found.train_y), [109, 110])
    assert np.array_equal(found.train_x[7], pixels.grey(pictures[8]))
    with pytest.warns(UserWarning) as caught:  # a cached copy says so as well
        load("folder", data, path="mine")
    assert [str(w.message) for w in caught] == list(found.notes)


# The cache -----------------------------------------------------------------------------------------------------------


def test_a_folder_is_decoded_once_and_again_when_it_changed(data, monkeypatch):
    made = write_tree(data.data / "mine")
    calls = []
    monkeypatch.setattr("nesa.datasets.image_folder.load", spy(calls, image_folder.load))
    first = load("folder", data, path="mine")
    again = load("folder", data, path="mine")
    assert len(calls) == 1 and isinstance(again.train_x, np.memmap) and np.array_equal(first.train_x, again.train_x)
    with pytest.raises(ValueError, match="read-only"):
        again.train_x[0] = 0
    load("folder", data, path="mine", channels=3)
    load("folder", data, path="mine", size=(3, 3))
    assert len(calls) == 3
    Image.fromarray(COLOURS[-1]).save(made["train", "ant"][0])
    changed = load("folder", data, path="mine")
    assert len(calls) == 4 and not np.array_equal(changed.train_x[0], first.train_x[0])
    made["train", "ant"][0].unlink()
    assert len(load("folder", data, path="mine").train_x) == 11
    assert sum(path.is_dir() for path in (data.cache / "decoded").iterdir()) == 5  # and nothing half-written


def spy(calls, function):
    def called(*args, **kwargs):
        calls.append(args)
        return function(*args, **kwargs)

    return called


@pytest.mark.parametrize("damage", ["cut", "gone", "about", "junk"])
def test_a_damaged_cache_is_made_again(damage, data):
    write_tree(data.data / "mine")
    good = np.array(load("folder", data, path="mine").train_x)
    entry = next((data.cache / "decoded").iterdir())
    if damage == "cut":
        os.truncate(entry / "train_x.npy", 150)
    elif damage == "gone":
        (entry / "test_y.npy").unlink()
    elif damage == "about":
        (entry / "about.json").write_text("{")
    else:
        (entry / "train_x.npy").write_bytes(bytes((entry / "train_x.npy").stat().st_size))
    assert np.array_equal(load("folder", data, path="mine").train_x, good)
    assert cache._read(entry) is not None


def test_a_cache_that_cannot_be_written_costs_a_warning(data):
    write_tree(data.data / "mine")
    data.cache.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot keep a decoded copy of folder"):
        assert len(load("folder", data, path="mine").train_x) == 12


# Published data sets -------------------------------------------------------------------------------------------------


def write_cifar(root: Path, monkeypatch, per_batch=20):
    """Files as torchvision wants them, and torchvision told their hashes."""
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    hashes = {}
    for i, (name, _) in enumerate([*CIFAR10.train_list, *CIFAR10.test_list]):
        values = np.random.default_rng(i).integers(0, 256, (per_batch, 3 * 32 * 32), np.uint8)
        hashes[name] = pickled(folder / name, {"data": values, "labels": [k % 10 for k in range(per_batch)]})
    meta = dict(CIFAR10.meta, md5=pickled(folder / "batches.meta", {"label_names": list("abcdefghij")}))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, hashes[name]] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, hashes[name]] for name, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return folder


def pickled(path: Path, content) -> str:
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_mnist(root: Path, train=40, test=20, packed=False):
    """IDX files with every class; returns train and test images."""
    (root / "MNIST" / "raw").mkdir(parents=True)
    made = []
    for part, count in (("train", train), ("t10k", test)):
        x = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        y = (np.arange(count) % 10).astype(np.uint8)
        for name, a in ((f"{part}-images-idx3-ubyte", x), (f"{part}-labels-idx1-ubyte", y)):
            content = struct.pack(f">I{a.ndim}I", 0x800 + a.ndim, *a.shape) + a.tobytes()
            path = root / "MNIST" / "raw" / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(content) if packed else content)
        made.append(x)
    return made


def test_cifar10_reads_torchvisions_files_before_image_folders(data, monkeypatch):
    write_tree(data.data / "cifar10")
    assert registry.available("cifar10", {}, data)
    folder = write_cifar(data.data, monkeypatch)
    found = load("cifar10", data, size=(32, 32), channels=3)
    batch = pickle.loads((folder / "data_batch_2").read_bytes())
    assert found.class_names == tuple("abcdefghij") and found.train_x.shape == (100, 32, 32, 3)
    assert np.array_equal(found.train_x[23], batch["data"][3].reshape(3, 32, 32).transpose(1, 2, 0))
    assert found.train_y[23] == 3 and found.test_x.shape == (20, 32, 32, 3)
    grey = load("cifar10", data, size=(32, 32))
    assert np.array_equal(grey.train_x, pixels.grey(np.array(found.train_x)))


def test_a_pickle_with_another_hash_is_never_opened(data, monkeypatch, tmp_path):
    folder = write_cifar(data.data, monkeypatch)

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    (folder / "data_batch_3").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match=r"cifar-10-batches-py: the files are damaged or are not the published ones"):
        load("cifar10", data, size=(32, 32))
    assert not (tmp_path / "exploded").exists()


def test_mnist_reads_torchvisions_files(data):
    train, test = write_mnist(data.data)
    found = load("mnist", data, size=(28, 28))
    assert np.array_equal(found.train_x, train) and np.array_equal(found.test_x, test)
    assert np.array_equal(found.train_y, np.arange(40) % 10) and found.class_names == tuple("0123456789")
    os.truncate(data.data / "MNIST" / "raw" / "train-images-idx3-ubyte", 1000)
    with pytest.raises(DataError, match=r"MNIST/raw: the files are damaged"):
        load("mnist", data, size=(28, 28))


def test_permuted_mnist_exchanges_the_same_pixels_everywhere(data):
    train, _ = write_mnist(data.data)

    def permuted(**params):
        return np.array(load("permuted_mnist", data, size=(28, 28), **params).train_x).reshape(40, -1)

    plain, one, two = permuted(permutation=0), permuted(permutation=1), permuted(permutation=2)
    assert np.array_equal(plain, train.reshape(40, -1))
    assert not np.array_equal(one, two) and not np.array_equal(one, plain)
    columns = {column.tobytes(): i for i, column in enumerate(plain.T.copy())}
    order = [columns[column.tobytes()] for column in one.T.copy()]
    assert sorted(order) == list(range(28 * 28))
    assert np.array_equal(one, plain[:, order])
    colour = load("permuted_mnist", data, size=(28, 28), channels=3, permutation=1).train_x
    assert np.array_equal(np.array(colour)[..., 2].reshape(40, -1), one)


def test_missing_data_stops_with_every_place_and_what_goes_where(data, monkeypatch):
    monkeypatch.setattr(download, "fetch", refuse)
    assert not registry.available("cifar10", {}, data)
    (data.data / "cifar-10-batches-py").mkdir()
    (data.data / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"")
    with pytest.raises(registry.MissingDataError) as caught:
        load("cifar10", data)
    said = str(caught.value)
    assert str(data.data) in said and str(data.cache) in said
    assert "cifar-10-batches-py is there, but lacks data_batch_2, data_batch_3" in said
    assert "cifar10/train/CLASS/*" in said and "--data DIR or $NESA_DATA" in said and "no route" in said
    assert caught.value.exit_code == 2
    with pytest.raises(registry.MissingDataError, match=r"MNIST/raw/ with train-images-idx3-ubyte"):
        load("mnist", data)


def refuse(*args):
    raise DataError("no route")


@pytest.mark.skipif(not os.environ.get("NESA_DATA"), reason="needs the real CIFAR-10 in $NESA_DATA")
def test_real_cifar10(tmp_path):
    real = registry.DataDirs(cache=tmp_path)
    assert registry.available("cifar10", {}, real)
    root = Path(os.environ["NESA_DATA"]) / "cifar10"
    if not root.is_dir():
        pytest.skip("$NESA_DATA holds torchvision's files")
    for part in ("train", "test"):
        for name in sorted(path.name for path in (root / part).iterdir()):
            (tmp_path / "few" / "cifar10" / part / name).mkdir(parents=True)
            for path in sorted((root / part / name).iterdir())[:20]:
                (tmp_path / "few" / "cifar10" / part / name / path.name).symlink_to(path)
    found = load("cifar10", registry.DataDirs(tmp_path / "few", tmp_path / "cache"), size=(32, 32), channels=3)
    assert found.class_names[:3] == ("airplane", "automobile", "bird") and found.train_x.shape == (200, 32, 32, 3)
    assert found.train_x[found.train_y == 0].mean((0, 1, 2)).argmax() == 2  # the sky is blue


# Downloads -----------------------------------------------------------------------------------------------------------


class Server:
    """A server on this machine that misbehaves as told: each request takes the next of ``script``."""

    def __init__(self, content: bytes, script):
        self.content, self.script, self.asked = content, list(script), []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                outer.answer(self)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/data.tar.gz"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def answer(self, request):
        self.asked.append(request.headers.get("Range"))
        step = self.script.pop(0) if self.script else "whole"
        if isinstance(step, int):
            request.send_error(step)
            return
        start = int(self.asked[-1][6:-1]) if self.asked[-1] and step != "no ranges" else 0
        body = self.content[start:] if step != "other" else b"x" * len(self.content)
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: len(body) // 2] if step == "half" else body)

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(content: bytes, *script):
        servers.append(Server(content, script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


CONTENT = RNG.bytes(700_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        ([], [None]),
        ([503], [None, None]),
        (["half"], [None, "bytes=350000-"]),
        (["half", "half"], [None, "bytes=350000-", "bytes=525000-"]),
        (["half", 500], [None, "bytes=350000-", "bytes=350000-"]),
        (["half", "no ranges"], [None, "bytes=350000-"]),
        (["half", 416], [None, "bytes=350000-", None]),
        (["other"], [None, None]),
    ],
)
def test_downloads_are_retried_resumed_and_checked(script, ranges, serve, tmp_path):
    server, seen = serve(CONTENT, *script), []
    target = tmp_path / "new" / "data.tar.gz"
    download.fetch((server.url,), target, MD5, lambda label, done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT and server.asked == ranges
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [p.name for p in target.parent.iterdir()] == ["data.tar.gz"]
    download.fetch((server.url,), target, MD5, lambda *_: None)
    assert server.asked == ranges  # a good file is not asked for again


@pytest.mark.parametrize(
    ("script", "asked", "words"),
    [
        ([404], 1, "HTTP 404 Not Found"),
        ([503] * 3, 3, "HTTP 503"),
        (["other"] * 3, 3, "another MD5"),
        (["half"] * 3, 3, "IncompleteRead"),
    ],
)
def test_a_download_that_fails_leaves_nothing(script, asked, words, serve, tmp_path):
    server = serve(CONTENT, *script)
    with pytest.raises(DataError, match=f"cannot download data.tar.gz: .*{words}"):
        download.fetch((server.url,), tmp_path / "data.tar.gz", MD5, lambda *_: None)
    assert len(server.asked) == asked and list(tmp_path.iterdir()) == []


def test_the_next_mirror_is_tried(serve, tmp_path):
    bad, good = serve(b"", 404), serve(CONTENT)
    download.fetch((bad.url, good.url), tmp_path / "x", MD5, lambda *_: None)
    assert (tmp_path / "x").read_bytes() == CONTENT
    bad.close()
    with pytest.raises(DataError, match=r"(?i)refused"):
        download.fetch((bad.url,), tmp_path / "y", MD5, lambda *_: None)
    bad.http.shutdown = bad.http.server_close = lambda: None


def test_cifar10_is_downloaded_unpacked_and_found_again(data, serve, monkeypatch, tmp_path):
    from torchvision.datasets import CIFAR10

    write_cifar(tmp_path / "far", monkeypatch)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(tmp_path / "far" / "cifar-10-batches-py", "cifar-10-batches-py")
    server = serve(packed.getvalue(), 503, "half")
    monkeypatch.setattr(CIFAR10, "url", server.url)
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(packed.getvalue()).hexdigest())
    found = load("cifar10", data, size=(32, 32))
    assert found.train_x.shape == (100, 32, 32) and len(server.asked) == 3
    assert registry.available("cifar10", {}, data)
    assert sorted(path.name for path in data.cache.iterdir()) == ["cifar-10-batches-py", "decoded"]
    assert np.array_equal(load("cifar10", data, size=(32, 32)).train_x, found.train_x) and len(server.asked) == 3


def test_mnist_is_downloaded_file_by_file(data, monkeypatch, tmp_path):
    train, _ = write_mnist(tmp_path / "far", packed=True)

    def fetch(urls, target, md5, progress):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((tmp_path / "far" / "MNIST" / "raw" / urls[0].rsplit("/", 1)[1]).read_bytes())
        return target

    monkeypatch.setattr(download, "fetch", fetch)
    assert np.array_equal(load("mnist", data, size=(28, 28)).train_x, train)
    assert len(list((data.cache / "MNIST" / "raw").iterdir())) == 4


@pytest.mark.parametrize("member", ["../climbed", "/tmp/climbed-out", "inner/../../climbed"])
def test_archives_that_climb_out_are_refused(member, tmp_path):
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        for name in ("inner/good", member):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    if member.startswith("/"):  # the filter takes the slash away, so that it lands inside
        download.unpack_tar(tmp_path / "evil.tar.gz", tmp_path / "in", "inner")
        assert not Path(member).exists()
    else:
        with pytest.raises(DataError, match="refused"):
            download.unpack_tar(tmp_path / "evil.tar.gz", tmp_path / "in", "inner")
        assert list((tmp_path / "in").iterdir()) == [] and not (tmp_path / "climbed").exists()


def test_damaged_archives_are_refused(tmp_path):
    (tmp_path / "bad.tar.gz").write_bytes(gzip.compress(RNG.bytes(2000))[:900])
    with pytest.raises(DataError, match="cannot be unpacked"):
        download.unpack_tar(tmp_path / "bad.tar.gz", tmp_path, "inner")
    (tmp_path / "bad.gz").write_bytes(gzip.compress(b"abc" * 1000)[:20])
    with pytest.raises(DataError, match="cannot be unpacked"):
        download.unpack_gzip(tmp_path / "bad.gz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.gz", "bad.tar.gz"]


# The user's own arrays -----------------------------------------------------------------------------------------------

GREY = pixels.grey(COLOURS)
GOOD = {"train_x": GREY[:20], "train_y": np.arange(20) % 3, "test_x": GREY[20:29], "test_y": np.arange(9) % 3}


def given(data, size=(6, 5), params=None, **changes):
    np.savez(data.data / "mine.npz", **{k: v for k, v in (GOOD | changes).items() if v is not None})
    return load("arrays", data, size=size, path="mine.npz", **(params or {}))


def test_arrays_give_what_is_in_the_file(data):
    found = given(data, class_names=np.array(["a", "b", "c"]))
    assert np.array_equal(found.train_x, GREY[:20]) and found.class_names == ("a", "b", "c")
    assert found.train_y.dtype == np.int64 and found.origin == str(data.data / "mine.npz")
    assert registry.find("arrays").classes({"path": str(data.data / "mine.npz")}) == 3
    parts = {"train_x": GREY[:20] / 255, "test_x": GREY[20:29] / 255}
    assert np.array_equal(given(data, **parts).train_x, GREY[:20])
    assert np.array_equal(given(data, train_x=COLOURS[:20], test_x=COLOURS[20:29]).train_x, GREY[:20])
    assert np.array_equal(given(data, train_x=GREY[:20, ..., None], test_x=GREY[20:29, ..., None]).train_x, GREY[:20])
    flat = given(data, (30,), train_x=GREY[:20].reshape(20, 30), test_x=GREY[20:29].reshape(9, 30) / 7.0)
    assert flat.kind == "vector" and flat.train_x.dtype == np.float32 and flat.train_x.shape == (20, 30)


def holes(a, value):
    a = np.array(a, float)
    a.flat[5] = value
    return a


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_x": holes(GREY[:20] / 255, np.nan)}, "train_x: 1 values are NaN or infinite"),
        ({"test_x": holes(GREY[20:29] / 255, np.inf)}, "test_x: 1 values are NaN or infinite"),
        ({"train_x": GREY[:20] * 3.0}, "values must lie from 0 to 255"),
        ({"train_x": GREY[:20] - 300.0}, "values must lie from 0 to 255"),
        ({"train_x": GREY[:20].reshape(20, 30)}, "must have the same shape"),
        ({"train_x": GREY[:20].reshape(20, 30), "test_x": GREY[20:29].reshape(9, 30)}, "expected images"),
        ({"train_x": GREY[:20, ..., None].repeat(2, 3), "test_x": GREY[20:29, ..., None].repeat(2, 3)}, "expected im"),
        ({"train_x": np.full((20, 6, 5), 7, np.uint8)}, "all 20 samples are the same"),
        ({"train_x": np.ones((20, 6, 5), np.uint8) * np.arange(20, dtype=np.uint8)[:, None, None]}, "one even grey"),
        ({"train_x": GREY[:0], "train_y": np.arange(0)}, "no samples"),
        ({"train_x": GREY[:19]}, "19 samples but labels of shape .20,."),
        ({"train_x": np.full((20, 6, 5), "a")}, "expected numbers"),
        ({"train_y": np.arange(20) % 3 - 1}, "labels must lie from 0 to 2, got -1 at sample 0 .7 such"),
        ({"class_names": np.array(["a", "b"])}, "labels must lie from 0 to 1, got 2 at sample 2"),
        ({"test_y": np.arange(9) % 2}, "test data: no sample of class 2"),
        ({"train_y": np.arange(20) % 3 * 2}, "train data: no sample of class 1, 3"),
        ({"train_y": (np.arange(20) % 3) / 1.0}, "labels must be whole numbers"),
        ({"train_y": np.arange(20)[:, None]}, "labels must be whole numbers"),
        ({"train_y": np.full(20, 10**12)}, "at most 10,000 classes"),
        ({"train_y": np.zeros(20, int), "test_y": np.zeros(9, int)}, "at least two classes"),
        ({"test_y": None}, "test_y missing"),
        ({"class_names": np.array([1, 2, 3])}, "class_names must be a list of texts"),
        ({"class_names": np.array([{}, {}, {}], object)}, "refused, because it holds pickled objects"),
        ({"train_x": np.array([None] * 20, object)}, "refused, because it holds pickled objects"),
    ],
)
def test_every_bad_array_has_its_sentence(changes, words, data):
    with pytest.raises(DataError, match=words):
        given(data, **changes)


def test_bad_vectors_files_and_counts(data):
    flat = {"train_x": GREY[:20].reshape(20, 30), "test_x": GREY[20:29].reshape(9, 30)}
    with pytest.raises(DataError, match=r"expected vectors \(n, 31\) for input.size \[31\], got shape \(20, 30\)"):
        given(data, (31,), **flat)
    with pytest.raises(DataError, match="too great for 32-bit"):
        given(data, (30,), **{**flat, "train_x": np.full((20, 30), 1e300)})
    with pytest.raises(DataError, match="params say classes: 4"):
        given(data, params={"classes": 4}, class_names=np.array(["a", "b", "c"]))
    with pytest.raises(DataError, match="no sample of class 3"):
        given(data, params={"classes": 4})
    for content in (b"", b"PK\x03\x04 cut", (data.data / "mine.npz").read_bytes()[:700]):
        (data.data / "mine.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"expected an .npz file with train_x, .*, and this is none"):
            load("arrays", data, path="mine.npz")
    given(data)
    whole = (data.data / "mine.npz").read_bytes()
    (data.data / "mine.npz").write_bytes(whole[:100] + b"?" * 50 + whole[150:])
    with pytest.raises(DataError, match=r"cannot be read as an .npz file: .*CRC"):
        load("arrays", data, path="mine.npz")
    np.save(data.data / "one.npy", GREY)
    with pytest.raises(DataError, match="and this is none"):
        load("arrays", data, path="one.npy")


def test_doubtful_data_are_used_with_a_warning(data):
    doubtful = GREY[:20].copy()
    doubtful[4] = 9
    with pytest.warns(UserWarning, match="train data: 1 images are one even grey"):
        given(data, train_x=doubtful)
    with pytest.warns(UserWarning, match="3 of 9 test samples are also training samples"):
        found = given(data, test_x=np.concatenate([GREY[:3], GREY[20:26]]))
    assert len(found.notes) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert given(data).notes == ()


def test_arrays_of_any_source_are_validated():
    good = Arrays(GREY[:20], GOOD["train_y"], GREY[20:29], GOOD["test_y"], ("a", "b", "c"))
    assert checks.check_arrays(good, "x", (6, 5), 1).notes == ()
    with pytest.raises(DataError, match=r"expected images \(6, 5, 3\) of uint8, got \(6, 5\) of uint8"):
        checks.check_arrays(good, "x", (6, 5), 3)
    vectors = Arrays(
        np.float32(GREY[:20, 0]), good.train_y, np.float32(GREY[20:29, 0]), good.test_y, ("a", "b", "c"), "vector"
    )
    assert checks.check_arrays(vectors, "x", (5,), 1).notes == ()
    vectors.train_x[3, 2] = np.nan
    with pytest.raises(DataError, match="x: train data: 1 samples have NaN"):
        checks.check_arrays(vectors, "x", (5,), 1)


# The user's own function ---------------------------------------------------------------------------------------------

CODE = """
import numpy as np
from pathlib import Path
Path("imported").touch()
def load(path="", flip=False, size=None, seed=None):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, *size), np.uint8), np.arange(30) % 2
    if flip:
        x = x[:, ::-1]
    x[0, 0, 0] = seed
    return x[:20], y[:20], x[20:], y[20:]
def mapping():
    return dict(zip(("train_x", "train_y", "test_x", "test_y"), load(size=(6, 5), seed=1)))
def wrong():
    return 3
def fails():
    raise KeyError("no such thing")
def leaves():
    raise SystemExit(0)
def tensors():
    import torch
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    return mapping()
class Stubborn:
    def __array__(self, *args, **kwargs):
        raise RuntimeError("call detach first")
def stubborn():
    return mapping() | {"train_x": Stubborn()}
value = 4
"""


@pytest.fixture
def code(data, tmp_path, monkeypatch):
    (tmp_path / "my_data_source.py").write_text(CODE)
    yield tmp_path
    sys.modules.pop("my_data_source", None)
    assert str(tmp_path) not in sys.path


def test_a_function_is_imported_only_when_its_data_are_loaded(code, data):
    source = registry.find("my_data_source:load")
    assert source.check({"classes": 2, "flip": True}) == [] and source.classes({"classes": 2}) == 2
    assert source.user_code and registry.available("my_data_source:load", {"classes": 2}, data)
    assert not (code / "imported").exists()
    plain = registry.load("my_data_source.load", {"classes": 2}, size=(6, 5), seed=77, data=data)
    flipped = registry.load("my_data_source:load", {"classes": 2, "flip": True}, size=(6, 5), seed=77, data=data)
    assert (code / "imported").exists() and plain.train_x[0, 0, 0] == 77
    assert np.array_equal(plain.train_x[1:], flipped.train_x[1:, ::-1]) and plain.origin == "source my_data_source.load"
    assert registry.load("my_data_source:mapping", {"classes": 2}, size=(6, 5), data=data).train_x.shape == (20, 6, 5)


@pytest.mark.parametrize(
    ("name", "params", "words"),
    [
        ("my_data_source:wrong", {}, "must return train_x, train_y, test_x, test_y, got int"),
        (
            "my_data_source:fails",
            {},
            r"your function my_data_source:fails raised KeyError: 'no such thing' \(line \d+ of .*my_data_source.py\)",
        ),
        ("my_data_source:stubborn", {}, "must return NumPy arrays: RuntimeError: call detach first"),
        ("my_data_source:leaves", {}, "raised SystemExit"),
        ("my_data_source:load", {"flop": 1}, "raised TypeError: .*flop"),
        ("my_data_source:nothing", {}, "cannot be imported: AttributeError"),
        ("my_data_source:value", {}, "is not a function"),
        ("no_such_module_here:load", {}, "cannot be imported: ModuleNotFoundError"),
        ("my_data_source:load", {"classes": 3}, "no sample of class 2"),
    ],
)
def test_every_bad_function_has_its_sentence(name, params, words, code, data):
    with pytest.raises(DataError, match=words):
        registry.load(name, {"classes": 2} | params, size=(6, 5), data=data)


def test_settings_of_torch_are_those_from_before(code, data):
    import torch

    registry.load("my_data_source:tensors", {"classes": 2}, size=(6, 5), data=data)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32
