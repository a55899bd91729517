"""Task sources: what they draw, that they draw it again, and that nothing leaks from test to training."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from nesa.datasets import registry, skimage_photos
from nesa.datasets.source import Param, Source
from nesa.datasets.sources import edges, gratings, junctions, positions, scenes, shapes, spheres
from nesa.errors import DataError

IMAGE = (32, 32)
SMALL = {"train": 200, "test": 100}
GENERATED = ("edges", "shapes", "scenes", "gratings", "positions", "junctions", "overlaps")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Data folders that hold nothing, and fewer photographs, so that edges take a second."""
    monkeypatch.delenv("NESA_DATA", raising=False)
    monkeypatch.setattr(skimage_photos, "NAMES", ("camera", "coins", "rocket"))
    monkeypatch.setattr(edges, "WINDOWS", (24, 32))
    return registry.DataDirs(cache=tmp_path / "cache")


def parts(arrays):
    return {name: np.array(getattr(arrays, name)) for name in ("train_x", "train_y", "test_x", "test_y")}


def params_of(name):
    return {**SMALL, "dimension": 3} if name == "spheres" else {} if name == "digits" else SMALL


def size_of(name):
    return (3,) if name == "spheres" else IMAGE


# Every source that needs no files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*GENERATED, "spheres"])
def test_seed_and_params_decide_everything(name, data, tmp_path):
    def load(seed, cache="again", **more):
        dirs = registry.DataDirs(cache=tmp_path / cache)
        return parts(registry.load(name, params_of(name) | more, size=size_of(name), seed=seed, data=dirs))

    first, again, other = load(3, "one"), load(3, "two"), load(4)
    cached = load(3, "one")
    for part, array in first.items():
        assert np.array_equal(array, again[part]) and np.array_equal(array, cached[part])
        assert array.dtype == again[part].dtype == cached[part].dtype
    assert not np.array_equal(first["train_x"], other["train_x"])
    assert len(load(3, "one", train=150)["train_x"]) == 150  # a parameter is part of the cache's key


@pytest.mark.parametrize("name", [*GENERATED, "spheres", "digits"])
def test_classes_are_balanced_and_shuffled(name, data):
    found = registry.load(name, params_of(name), size=size_of(name), data=data)
    K = registry.find(name).classes(registry.find(name).complete(params_of(name)))
    assert len(found.class_names) == K
    for y in (found.train_y, found.test_y):
        counts = np.bincount(y, minlength=K)
        assert y.dtype == np.int64 and len(counts) == K
        assert counts.max() - counts.min() <= (8 if name == "digits" else 1)
        assert np.count_nonzero(np.diff(y) == 1) < 0.6 * len(y)  # 0 1 2 3 4 0 1 ... would give 0.8 and more


@pytest.mark.parametrize("name", [*GENERATED, "digits"])
@pytest.mark.parametrize(("channels", "shape"), [(1, (16, 24)), (3, (16, 24, 3))])
def test_images_come_in_the_size_that_was_asked_for(name, channels, shape, data):
    found = registry.load(name, params_of(name), size=(16, 24), channels=channels, data=data)
    assert found.kind == "image" and found.train_x.dtype == np.uint8
    assert found.train_x.shape[1:] == shape == found.test_x.shape[1:]
    assert len(found.train_x) == len(found.train_y) and len(found.test_x) == len(found.test_y)


@pytest.mark.parametrize("name", ["edges", "scenes"])
@pytest.mark.parametrize("poisoned", ["train", "test"])
def test_training_and_test_patches_share_no_pixel(name, poisoned, data, tmp_path, monkeypatch):
    """Inverting the columns of one part changes that part's data and not one value of the other's."""
    true = skimage_photos.photograph
    # the class by place alone, so that the same places are drawn whatever the photograph shows
    monkeypatch.setattr(edges, "labels", lambda grey, **_: np.add.outer(*map(np.arange, np.array(grey.shape) - 31)) % 5)
    monkeypatch.setattr(scenes, "PLAIN", 0.0)

    def photograph(which):
        photo = true(which).copy()
        cut = round(photo.shape[1] * skimage_photos.TRAIN_SHARE)
        columns = slice(0, cut) if poisoned == "train" else slice(cut, None)
        photo[:, columns] = 255 - photo[:, columns]
        return photo

    clean = registry.load(name, SMALL, size=IMAGE, data=registry.DataDirs(cache=tmp_path / "clean"))
    monkeypatch.setattr(skimage_photos, "photograph", photograph)
    dirty = registry.load(name, SMALL, size=IMAGE, data=registry.DataDirs(cache=tmp_path / "dirty"))
    kept = "test" if poisoned == "train" else "train"
    assert np.array_equal(getattr(clean, f"{kept}_x"), getattr(dirty, f"{kept}_x"))
    assert not np.array_equal(getattr(clean, f"{poisoned}_x"), getattr(dirty, f"{poisoned}_x"))


# edges ---------------------------------------------------------------------------------------------------------------

RULE = {"coherent": 0.8, "incoherent": 0.08, "sigma": 3.0}


@pytest.mark.parametrize(("degrees", "wanted"), [(0, 0), (45, 1), (90, 2), (135, 3), (8, 0), (172, 0), (22.5, -1)])
def test_the_rule_names_the_direction_of_a_drawn_edge(degrees, wanted):
    y, x = np.mgrid[0:32, 0:32] - 15.5
    t = np.deg2rad(degrees)
    side = x * np.sin(t) + y * np.cos(t)  # the line through the middle that climbs to the right by ``degrees``
    picture = 0.5 + 0.3 * np.tanh(side)
    assert edges.labels(picture, **RULE) == np.array([[wanted]])
    assert edges.labels(1 - picture, **RULE) == np.array([[wanted]])


def test_the_rule_sees_no_direction_in_a_disc_and_no_class_in_a_plain_patch():
    y, x = np.mgrid[0:32, 0:32] - 15.5
    assert edges.labels(0.5 + 0.3 * (np.hypot(x, y) < 8), **RULE) == edges.NONE
    assert edges.labels(np.full((32, 32), 0.5), **RULE) == -1
    assert edges.labels(0.5 + 1e-3 * np.tanh(y), **RULE) == -1  # oriented, but too faint
    assert edges.labels(np.zeros((40, 35)), **RULE).shape == (9, 4)


def test_patches_show_the_orientation_that_their_label_names(data):
    """scikit-image's structure tensor of the finished 8-bit patch, turned over and jittered, as the oracle."""
    from skimage.feature import structure_tensor
    from skimage.filters import gaussian

    found = registry.load("edges", SMALL, size=IMAGE, data=data)
    seen = {True: [], False: []}
    for patch, k in zip(found.train_x, found.train_y, strict=True):
        rr, rc, cc = (
            a.sum() for a in structure_tensor(gaussian(patch / 255.0, 3.0), sigma=0.1, mode="nearest", order="rc")
        )
        coherence = np.hypot(cc - rr, 2 * rc) / (cc + rr)
        edge = (90 - np.rad2deg(0.5 * np.arctan2(2 * rc, cc - rr))) % 180
        if k == edges.NONE:
            seen[False].append(coherence < 0.5)
        else:
            seen[True].append(abs((edge - 45 * k + 90) % 180 - 90) < 22.5)
    assert np.mean(seen[True]) > 0.95 and np.mean(seen[False]) > 0.9


# shapes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("disc", np.pi * 0.95**2),
        ("ring", np.pi * (0.95**2 - 0.55**2)),
        ("triangle", 3 * np.sqrt(3) / 4),
        ("square", 2.0),
        ("cross", (4 * 2 * 0.3 - 4 * 0.3**2) / (1 + 0.3**2)),
        ("star", 10 * 0.5 * 0.4 * np.sin(np.pi / 5)),
    ],
)
@pytest.mark.parametrize("turn", [0.0, 0.4])
def test_figures_have_the_area_and_the_centre_of_their_geometry(name, area, turn):
    radius, centre = 10.0, np.array([14.0, 17.5])
    mask = shapes.figure(name, centre, radius, turn)
    assert mask.shape == IMAGE and mask.min() == 0 and mask.max() == 1
    assert mask.sum() == pytest.approx(area * radius**2, rel=0.04)
    middle = np.array([(mask * axis).sum() for axis in np.mgrid[0:32, 0:32]]) / mask.sum()
    assert middle == pytest.approx(centre, abs=0.25)


def test_figures_turn():
    middle = np.array([15.5, 15.5])
    straight, quarter = (shapes.figure("triangle", middle, 11, turn) for turn in (0.0, np.pi / 2))
    assert np.abs(np.rot90(straight, -1) - quarter).mean() < 0.02 or np.abs(np.rot90(straight) - quarter).mean() < 0.02
    assert np.abs(straight - quarter).mean() > 0.05
    assert np.abs(shapes.figure("square", middle, 11, np.pi / 2) - shapes.figure("square", middle, 11, 0)).mean() < 0.02


def test_figures_are_brighter_than_their_ground_as_often_as_darker(data):
    found = registry.load("shapes", {"train": 600, "test": 60, "noise": 0.0}, size=IMAGE, data=data)
    brighter = [x.max() - np.median(x) > np.median(x) - x.min() for x in found.train_x]
    assert 0.4 < np.mean(brighter) < 0.6


# The ladder ----------------------------------------------------------------------------------------------------------


def test_gratings_turn_as_their_label_says(data):
    found = registry.load("gratings", {**SMALL, "orientations": 5}, size=IMAGE, data=data)
    window = np.outer(np.hanning(32), np.hanning(32))
    for picture, k in zip(found.train_x, found.train_y, strict=True):
        power = np.abs(np.fft.fft2((picture - picture.mean()) * window, (128, 128))) ** 2
        fy, fx = (np.fft.fftfreq(128)[i] for i in np.unravel_index(power[:64].argmax(), (64, 128)))
        stripes = np.rad2deg(np.arctan2(fx, fy))  # at right angles to the wave, counted upwards
        assert abs((stripes - 36 * k + 90) % 180 - 90) < 18
    assert found.class_names[1] == "36 degrees"
    assert np.allclose(gratings.grating(0, 3, 0), gratings.grating(0, 3, 0)[:, :1])  # horizontal: rows are even


def test_positions_lie_in_their_column(data):
    found = registry.load("positions", {**SMALL, "columns": 4, "noise": 0.0}, size=IMAGE, data=data)
    signs = []
    for picture, k in zip(found.train_x, found.train_y, strict=True):
        step = np.diff(picture[15:17].astype(float).mean(0))
        place = (np.arange(1, 32) * step).sum() / step.sum()
        assert 4 + 6 * k + 1 < place < 4 + 6 * (k + 1) - 1
        signs.append(step.sum() > 0)
    assert 0.35 < np.mean(signs) < 0.65
    lean = positions.edge(16, 10)
    assert lean[-1].mean() > lean[0].mean() and lean[16].mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("name", "arms"), [("end", 1), ("line", 2), ("corner", 2), ("tee", 3), ("fork", 3), ("cross", 4)]
)
def test_junctions_have_as_many_arms_as_their_name_says(name, arms):
    assert len(junctions.ANGLES[name]) == arms
    centre, turn = np.array([15.0, 16.0]), 25.0
    degrees = np.array(junctions.ANGLES[name]) + turn
    mask = junctions.strokes(centre, degrees, np.full(arms, 10.0), 2.5)
    t = np.deg2rad(np.arange(0, 360, 2))
    ring = mask[np.rint(centre[0] - 7 * np.sin(t)).astype(int), np.rint(centre[1] + 7 * np.cos(t)).astype(int)] > 0.5
    assert np.count_nonzero(ring & ~np.roll(ring, 1)) == arms
    assert all(ring[round(d % 360 / 2) % 180] for d in degrees)


def test_the_front_figure_of_overlaps_is_the_class_and_is_whole(data, monkeypatch):
    drawn, true = [], shapes.figure
    monkeypatch.setattr(shapes, "figure", lambda name, *a: drawn.append((name, true(name, *a))) or drawn[-1][1])
    found = registry.load("overlaps", {**SMALL, "noise": 0.0, "stripes": 0.0}, size=IMAGE, data=data)
    covered = 0  # the images were shuffled after they were drawn: they are found again by what they show
    for (back, hidden), (front, mask) in zip(drawn[0:400:2], drawn[1:400:2], strict=True):
        matches = [
            k
            for picture, k in zip(found.train_x, found.train_y, strict=True)
            if np.ptp(picture[mask == 1].astype(int)) == 0
            and np.ptp(picture[(mask == 0) & (hidden == 1)].astype(int)) == 0
        ]
        assert shapes.CLASSES.index(front) in matches and back != front
        covered += (mask * hidden).sum() > 5
    assert covered > 190  # of 200


# spheres -------------------------------------------------------------------------------------------------------------


def test_points_fill_their_shell_evenly():
    D, low, thickness = 4, 1.5, 0.5
    x = spheres.points(np.random.default_rng(0), np.full(4000, low), thickness, D)
    r = np.linalg.norm(x, axis=1)
    assert r.min() >= low - 1e-9 and r.max() <= low + thickness + 1e-9
    volume = (r**D - low**D) / ((low + thickness) ** D - low**D)
    assert stats.kstest(volume, "uniform").pvalue > 1e-3
    assert np.abs(x.mean(0)).max() < 0.1


@pytest.mark.parametrize(("inner", "thickness"), [(0.0, 0.5), (0.0, 0.0), (1.0, 0.0), (2.0, 1.0)])
@pytest.mark.parametrize("dimension", [1, 2, 1000])
def test_spheres_of_any_dimension_are_finite(inner, thickness, dimension):
    x = spheres.points(np.random.default_rng(0), np.full(50, inner), thickness, dimension)
    r = np.linalg.norm(x, axis=1)
    assert np.all((r >= inner - 1e-9) & (r <= inner + thickness + 1e-9))


def test_the_class_is_the_shell_or_the_shell_modulo_classes():
    for classes, K in ((0, 5), (2, 2)):
        params = {"shells": 5, "classes": classes, "thickness": 0.1, "train": 500, "test": 100, "dimension": 3}
        found = registry.load("spheres", params, size=(3,))
        shell = np.floor(np.linalg.norm(found.train_x, axis=1) + 1e-5).astype(int) - 1
        assert len(found.class_names) == K and set(shell) == set(range(5))
        assert np.array_equal(shell % K, found.train_y)


# Parameters, listing, lightness --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "params", "key", "words"),
    [
        ("edges", {"trian": 100}, "trian", "did you mean 'train'?"),
        ("edges", {"zzz": 1}, "zzz", "it knows train, test"),
        ("cifar10", {"zzz": 1}, "zzz", "no parameters"),
        ("edges", {"train": 3.5}, "train", "expected a whole number, got 3.5"),
        ("edges", {"train": True}, "train", "expected a whole number"),
        ("edges", {"train": 1}, "train", "at least 50"),
        ("shapes", {"noise": "much"}, "noise", "expected a number, got 'much'"),
        ("shapes", {"noise": float("nan")}, "noise", "expected a number"),
        ("shapes", {"noise": 0.9}, "noise", "at most 0.5"),
        ("shapes", {"smallest": 12.0, "largest": 8.0}, "smallest", "must not exceed largest"),
        ("scenes", {"smallest": 100, "largest": 50}, "smallest", "must not exceed largest"),
        ("spheres", {"thickness": 2.0}, "thickness", "must not exceed spacing"),
        ("spheres", {"classes": 3}, "classes", "from 2 to shells (2)"),
        ("spheres", {"classes": 1}, "classes", "from 2 to shells (2)"),
        ("folder", {}, "path", "needs this parameter"),
        ("folder", {"path": 3}, "path", "expected a text"),
        ("folder", {"path": "x", "mixed": 1}, "mixed", "expected true or false"),
        ("arrays", {}, "path", "needs this parameter"),
        ("mine:load", {}, "classes", "needs this parameter"),
        ("mine.load", {"classes": 1}, "classes", "at least 2"),
    ],
)
def test_every_bad_parameter_has_its_sentence(name, params, key, words):
    problems = registry.find(name).check(params)
    assert [k for k, _ in problems] == [key] and words in problems[0][1]
    with pytest.raises(DataError, match=key):
        registry.load(name, params, size=IMAGE)


def test_all_problems_come_at_once_and_defaults_have_none():
    assert {key for key, _ in registry.find("shapes").check({"train": "x", "noise": -1, "nose": 1})} == {
        "train",
        "noise",
        "nose",
    }
    for source in registry.SOURCES.values():
        required = {p.name: "somewhere" for p in source.params if p.required}
        assert source.check(required) == []
        assert source.check({p.name: p.default for p in source.params} | required) == []
    assert registry.find("mine:load").check({"classes": 2, "anything": [1]}) == []
    assert registry.find("shapes").complete({"noise": 0})["noise"] == 0.0
    assert isinstance(registry.find("shapes").complete({"noise": 0})["noise"], float)


def test_choices_are_enforced():
    param = Param("mode", str, "a", "", choices=("a", "b"))
    assert param.problem("b") is None and "one of a, b" in str(param.problem("c"))
    assert Source("x", "", "", load=lambda: None, params=(param,)).check({"mode": "c"})[0][0] == "mode"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "params", "size", "channels", "words"),
    [
        ("edges", {}, (1024,), 1, "input.size must be [H, W]"),
        ("spheres", {}, (32, 32), 1, "input.size must be [10]"),
        ("spheres", {"dimension": 4}, (5,), 1, "samples of size [4], but input.size is [5]"),
        ("edges", {}, (32, 32), 2, "1 (grey) or 3 (colour) channels, not 2"),
        ("spheres", {}, (10,), 3, "vectors have one channel"),
    ],
)
def test_inputs_that_a_source_cannot_fill(name, params, size, channels, words):
    source = registry.find(name)
    assert words in str(source.mismatch(source.complete(params), size, channels))
    with pytest.raises(DataError, match=r"size|channel"):
        registry.load(name, params, size=size, channels=channels)


def test_inputs_that_a_source_can_fill():
    for name, size, channels in (
        ("edges", (8, 9), 3),
        ("spheres", (10,), 1),
        ("arrays", (3,), 1),
        ("arrays", (3, 3), 1),
    ):
        source = registry.find(name)
        assert source.mismatch(source.complete({}), size, channels) is None


def test_an_unknown_source_suggests_the_nearest():
    with pytest.raises(DataError, match=r"no task source 'shape' \(did you mean 'shapes'\?\)"):
        registry.find("shape")


def test_describe_names_every_source_and_parameter():
    text = registry.describe()
    for source in registry.SOURCES.values():
        assert f"\n{source.name}\n" in f"\n{text}" and source.difficulty in text
        for param in source.params:
            assert param.help in registry.describe(source.name)
    assert "shapes\n" not in registry.describe("edges")
    assert "default 20000, 50 to 1,000,000: training patches" in registry.describe("edges")


@pytest.mark.parametrize(("name", "params"), [("digits", {}), ("spheres", {"train": 40, "test": 20})])
def test_preview_is_a_whole_png(name, params, tmp_path, data):
    from PIL import Image

    path = registry.preview(name, params, tmp_path / "new" / "sheet.png", data=data)
    assert [p.name for p in path.parent.iterdir()] == ["sheet.png"]
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
        assert image.format == "PNG" and min(pixels.shape) > 100 and pixels.std() > 10


def test_sources_and_their_listing_load_nothing_heavy():
    code = (
        "import sys; from nesa.datasets import registry as r; r.describe(); s = r.find('spheres'); s.check({'x': 1});"
        "r.find('a.b').check({}); r.available('cifar10', {}, r.DataDirs());"
        "print([m for m in ('torch', 'torchvision', 'skimage', 'sklearn', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
