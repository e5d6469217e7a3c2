"""Sets of images as users have them: folders, lists, pairs, and TensorFlow Datasets."""

import math
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from image_samples import colours, save
from PIL import Image

from resshift_jax.data import sources
from resshift_jax.data.config import CropConfig, DataConfig, InputError, SourceConfig
from resshift_jax.data.sources import open_source
from resshift_jax.image_io.photo import ImageFileError
from resshift_jax.settings import ConfigError


def put(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(path, image)


def refused(config, scale=4) -> str:
    with pytest.raises(InputError) as caught:
        open_source(config, scale)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_folder_and_its_folders(tmp_path):
    images = {
        name: colours(9, 7, seed) for seed, name in enumerate(("b.png", "n01/x.bmp", "a.tif"))
    }
    for name, image in images.items():
        put(tmp_path / name, image)
    (tmp_path / "notes.md").write_text("no image")
    source = pickle.loads(pickle.dumps(open_source(SourceConfig(str(tmp_path)), 4)))
    assert not source.paired
    assert [source.name(i) for i in range(len(source))] == [
        str(tmp_path / name) for name in ("a.tif", "b.png", "n01/x.bmp")
    ]
    for i in range(3):
        hq, lq = source.read(i)
        assert lq is None
        np.testing.assert_array_equal(hq, images[str(Path(source.name(i)).relative_to(tmp_path))])


def test_greys_of_16_bits_become_8(tmp_path):
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    put(tmp_path / "deep.png", Image.fromarray(grey))
    hq, _ = open_source(SourceConfig(str(tmp_path)), 4).read(0)
    assert hq.dtype == np.uint8
    np.testing.assert_array_equal(hq, np.repeat((grey // 257)[..., None], 3, 2))


def test_a_list(tmp_path):
    first = put(tmp_path / "images" / "one.png", colours(seed=1))
    second = put(tmp_path / "elsewhere" / "two.png", colours(seed=2))
    (tmp_path / "images" / "list.txt").write_text(f"# of images\n\none.png\n  {second}\n")
    source = open_source(SourceConfig(str(tmp_path / "images" / "list.txt")), 4)
    assert [source.name(i) for i in range(len(source))] == [str(first), str(second)]
    np.testing.assert_array_equal(source.read(1)[0], colours(seed=2))


def test_sets_without_images(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty}: a folder without images" in refused(SourceConfig(str(empty)))
    listed = tmp_path / "list.txt"
    listed.write_text("# nothing\n\n")
    assert f"{listed}: a list without images" in refused(SourceConfig(str(listed)))
    absent = tmp_path / "absent"
    assert f"{absent}: No such file" in refused(SourceConfig(str(absent)))
    image = put(tmp_path / "a.png", colours())
    assert f"{image}: a folder or a list of images (.txt) needed" in refused(
        SourceConfig(str(image))
    )


def test_pairs(tmp_path):
    for name, seed in (("a.png", 1), ("deep/b.png", 2)):
        put(tmp_path / "hq" / name, colours(32, 24, seed))
    put(tmp_path / "hq" / "lq" / "a.png", colours(8, 6, 3))  # a folder of the other, too
    put(tmp_path / "hq" / "lq" / "deep" / "b.bmp", colours(8, 6, 4))
    put(tmp_path / "hq" / "lq" / "deep" / "unused.png", colours(1, 1))
    config = SourceConfig(str(tmp_path / "hq"), lq=str(tmp_path / "hq" / "lq"))
    source = pickle.loads(pickle.dumps(open_source(config, 4)))
    assert source.paired
    assert len(source) == 2
    for i in range(2):
        hq, lq = source.read(i)
        np.testing.assert_array_equal(hq, colours(32, 24, i + 1))
        np.testing.assert_array_equal(lq, colours(8, 6, i + 3))


def test_a_pair_of_which_one_is_stored_on_its_side(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "hq").mkdir()
    save(tmp_path / "hq" / "a.png", colours(32, 24), exif=exif)
    put(tmp_path / "lq" / "a.png", colours(6, 8))
    source = open_source(SourceConfig(str(tmp_path / "hq"), lq=str(tmp_path / "lq")), 4)
    assert source.read(0)[0].shape == (24, 32, 3)


def test_images_without_a_partner_or_with_several(tmp_path):
    hq = put(tmp_path / "hq" / "n" / "a.png", colours(32, 24))
    put(tmp_path / "lq" / "other.png", colours(8, 6))
    config = SourceConfig(str(tmp_path / "hq"), lq=str(tmp_path / "lq"))
    message = refused(config)
    assert str(hq) in message
    assert str(tmp_path / "lq" / "n" / "a.png") in message
    put(tmp_path / "lq" / "n" / "a.bmp", colours(8, 6))
    open_source(config, 4)
    put(tmp_path / "lq" / "n" / "a.jpg", colours(8, 6))
    assert "leave one of a.bmp, a.jpg" in refused(config)


def test_pairs_of_sizes_that_do_not_fit(tmp_path, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        put(tmp_path / "hq" / name, colours(32, 24))
        put(tmp_path / "lq" / name, colours(8, 6))
    wrong = put(tmp_path / "lq" / "c.png", colours(8, 7))
    config = SourceConfig(str(tmp_path / "hq"), lq=str(tmp_path / "lq"))
    expected = (
        f"{tmp_path / 'hq' / 'c.png'} (24x32) and {wrong} (7x8): a pair needs sides that are "
        f"4 times as long, 28x32 here"
    )
    assert refused(config) == expected
    # Those that were not compared when the set was opened are when they are read.
    monkeypatch.setattr(sources, "CHECKED_PAIRS", 2)
    source = open_source(config, 4)
    source.read(0)
    with pytest.raises(InputError, match=re.escape(expected)):
        source.read(2)


def test_a_damaged_file_of_a_pair_is_unreadable(tmp_path):
    put(tmp_path / "hq" / "a.png", colours(32, 24))
    lq = put(tmp_path / "lq" / "a.png", colours(8, 6))
    lq.write_bytes(lq.read_bytes()[:-20])
    source = open_source(SourceConfig(str(tmp_path / "hq"), lq=str(tmp_path / "lq")), 4)
    with pytest.raises(ImageFileError, match=re.escape(str(lq))):
        source.read(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SourceConfig(""), "data.sources.path: none given"),
        (lambda: SourceConfig("a", weight=0.0), "data.sources.weight: 0.0 given"),
        (lambda: SourceConfig("tfds:a", lq="b"), "data.sources.lq: b given"),
        (lambda: SourceConfig("a", data_dir="b"), "data.sources.data_dir: b given"),
        (lambda: CropConfig(size=0), "data.crop.size: 0 given, must be positive"),
        (lambda: CropConfig("centre"), "data.crop.method: 'centre' given, one of square, resized"),
        (lambda: CropConfig(flips="all"), "data.crop.flips: 'all' given"),
        (lambda: CropConfig("random", max_reduction=0.5), "data.crop.max_reduction: 0.5 given, 1"),
        (
            lambda: CropConfig("random", max_reduction=math.nan),
            "data.crop.max_reduction: nan given",
        ),
        (lambda: CropConfig(max_reduction=2), "data.crop.max_reduction: 2 given, but the method"),
        (lambda: DataConfig(threads=0), "data.threads: 0 given, must be positive"),
        (lambda: DataConfig(workers=-1), "data.workers: -1 given"),
        (lambda: DataConfig(max_unreadable=1.5), "data.max_unreadable: 1.5 given"),
    ],
)
def test_settings_that_cannot_be(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Small sets that were prepared by TensorFlow Datasets, as array_record."""
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = tmp_path_factory.mktemp("tfds")
    files = [put(folder / "files" / f"{i}.png", colours(20 + i, 30, i)) for i in range(6)]

    def prepare(name, features):
        def generate(self):
            for path in files:
                yield path.name, {key: str(path) if key != "label" else 0 for key in features}

        members = {
            "VERSION": tfds.core.Version("1.2.0"),
            "_info": lambda self: tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            ),
            "_split_generators": lambda self, manager: {"train": generate(self)},
            "_generate_examples": generate,
        }
        kind = type(name, (tfds.core.GeneratorBasedBuilder,), members)
        kind(data_dir=folder / "sets", file_format="array_record").download_and_prepare()

    image, label = tfds.features.Image(), tfds.features.ClassLabel(num_classes=2)
    prepare("SmallPhotos", {"image": image, "label": label})
    prepare("SmallPairs", {"lr": image, "hr": image})
    prepare("SmallOthers", {"picture": image, "label": label})
    prepare("SmallTwo", {"left": image, "right": image})
    prepare("SmallLabels", {"label": label})
    return folder / "sets"


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("small_photos", 6), ("small_photos/train", 6), ("small_photos/train[:50%]", 3),
        ("small_photos:1.2.0/train[4:]", 2), ("small_pairs", 6), ("small_others/train", 6),
    ],
)  # fmt: skip
def test_prepared_sets(prepared, name, count):
    source = open_source(SourceConfig(f"tfds:{name}", data_dir=str(prepared)), 4)
    source = pickle.loads(pickle.dumps(source))
    assert len(source) == count
    split = name if "/" in name else f"{name}/train"
    assert source.name(count - 1) == f"tfds:{split}[{count - 1}]"
    for i in range(count):
        hq, lq = source.read(i)
        np.testing.assert_array_equal(hq, colours(hq.shape[0], 30, hq.shape[0] - 20))
        assert lq is None
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("small_photos/test", "no such split, there is train"),
        ("small_photos/train[:x]", "no such split, there is train"),
        ("small_photos/train[:0]", "a split without images"),
        ("small_photos:7.0.0", "not prepared in {folder}, where there is small_photos/1.2.0"),
        ("small_two", "one of left, right must be named image or hr"),
        ("small_labels", "no image of 8 bits among its features (label)"),
        ("cifar9", "none prepared in {folder}; did you mean cifar10"),
        ("", "no set of TensorFlow Datasets"),
        ("mnist/test", "tfds.builder('mnist', data_dir='{folder}', file_format='array_record')"),
        ("div2k/bicubic_x4/train", "tfds.builder('div2k/bicubic_x4', data_dir="),
        ("div2k/validation", "tfds.builder('div2k', data_dir="),
    ],
)
def test_sets_that_are_not_prepared(prepared, name, message):
    found = refused(SourceConfig(f"tfds:{name}", data_dir=str(prepared)))
    assert found.startswith(f"tfds:{name}")
    assert message.format(folder=prepared) in found
    assert "tensorflow" not in sys.modules


def test_a_set_that_was_prepared_in_another_format(prepared, tmp_path):
    folder = shutil.copytree(prepared / "small_photos", tmp_path / "small_photos") / "1.2.0"
    described = folder / "dataset_info.json"
    described.write_text(described.read_text().replace("array_record", "tfrecord"))
    found = refused(SourceConfig("tfds:small_photos", data_dir=str(tmp_path)))
    assert f"prepared as tfrecord in {folder}" in found
    assert "file_format='array_record'" in found


def test_damaged_records_are_unreadable(prepared, tmp_path):
    shutil.copytree(prepared / "small_photos", tmp_path / "small_photos")
    (path,) = (tmp_path / "small_photos" / "1.2.0").glob("*array_record*")
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT", 3000)
    data[at + 50 : at + 60] = bytes(10)
    path.write_bytes(data)
    source = open_source(SourceConfig("tfds:small_photos", data_dir=str(tmp_path)), 4)
    messages = []
    for i in range(len(source)):
        try:
            source.read(i)
        except ImageFileError as e:
            messages.append((i, str(e)))
    ((i, message),) = messages
    assert message.startswith(f"tfds:small_photos/train[{i}]: damaged")
