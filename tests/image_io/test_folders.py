"""Which images are meant, where results go, and which mask is whose."""

import itertools
import os
import shutil
import tempfile
import unicodedata
from pathlib import Path

import pytest

from resshift_jax.image_io.folders import (
    File,
    find_files,
    find_mask,
    list_images,
    name_outputs,
    share_of,
)
from resshift_jax.image_io.photo import ImageFileError, read_photo


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
    return folder


def listed(folder, **options):
    return [str(path.relative_to(folder)) for path in list_images(folder, **options)]


@pytest.fixture
def unprivileged():
    """A folder that belongs to nobody, whose rights then count."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in folder.rglob("*"):
            if path.is_dir():
                path.chmod(0o777)
        shutil.rmtree(folder)


def test_the_images_of_a_folder_by_their_suffix_in_order(tmp_path):
    make(tmp_path, "b.png", "a.JPG", "c.jpeg", "d.Webp", "e.bmp", "f.tif", "g.TIFF")
    make(tmp_path, "h.txt", "i.npz", "j.gif", "k", ".hidden.png", "sub/l.png")
    expected = ["a.JPG", "b.png", "c.jpeg", "d.Webp", "e.bmp", "f.tif", "g.TIFF"]
    assert listed(tmp_path) == expected
    assert listed(tmp_path, recursive=True) == [*expected, "sub/l.png"]


def test_a_file_is_listed_whatever_its_name(tmp_path):
    make(tmp_path, "d.txt", ".hidden.png")
    os.mkfifo(tmp_path / "pipe")
    for name in ("d.txt", ".hidden.png", "pipe"):
        assert list_images(tmp_path / name) == [tmp_path / name]


def test_sub_folders_in_order_but_no_hidden_or_linked_ones(tmp_path):
    make(tmp_path, "photos/b/2.png", "photos/b/1.png", "photos/a/z/3.png", "photos/c.png")
    make(tmp_path, "photos/.cache/4.png", "elsewhere/5.png")
    photos = tmp_path / "photos"
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "circle").symlink_to(photos)
    assert listed(photos, recursive=True) == ["a/z/3.png", "b/1.png", "b/2.png", "c.png"]
    assert listed(photos) == ["c.png"]
    (tmp_path / "way_in").symlink_to(photos)  # what is named itself is followed
    assert listed(tmp_path / "way_in", recursive=True) == listed(photos, recursive=True)


def test_the_folder_of_the_results_is_not_entered(tmp_path):
    make(tmp_path, "a.png", "results/a.png", "results/sub/a.png", "sub/results/b.png")
    both = ["a.png", "sub/results/b.png"]
    assert listed(tmp_path, recursive=True, exclude=tmp_path / "results") == both
    assert listed(tmp_path, recursive=True, exclude=tmp_path / "sub" / ".." / "results") == both
    everything = listed(tmp_path, recursive=True)
    assert len(everything) == 4
    for other in (tmp_path, tmp_path.parent, tmp_path / "not_there_yet"):
        assert listed(tmp_path, recursive=True, exclude=other) == everything


def test_what_is_no_file_stays_in_the_list_to_be_named(tmp_path):
    make(tmp_path, "a.png", "empty.png/", "full.png/b.png", "notes.png/c.txt")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "linked.png").symlink_to(tmp_path / "full.png")
    flat = ["a.png", "empty.png", "full.png", "gone.png", "linked.png", "notes.png"]
    assert listed(tmp_path) == flat
    deep = ["a.png", "empty.png", "full.png/b.png", "gone.png", "linked.png", "notes.png"]
    assert listed(tmp_path, recursive=True) == deep
    for name in set(deep) - {"a.png", "full.png/b.png"}:
        with pytest.raises(ImageFileError, match=r"folder|link"):
            read_photo(tmp_path / name)


def test_a_folder_that_cannot_be_opened_does_not_lose_the_rest(unprivileged):
    make(unprivileged, "a.png", "closed/b.png", "closed.png/c.png", "listable/d/e.png", "z/f.png")
    (unprivileged / "closed").chmod(0)
    (unprivileged / "closed.png").chmod(0)
    (unprivileged / "listable").chmod(0o444)  # names, but nothing more
    found = listed(unprivileged, recursive=True, exclude=unprivileged / "z")
    assert found == ["a.png", "closed", "closed.png", "listable/d"]
    for name in found[1:]:
        with pytest.raises(ImageFileError, match="Permission denied"):
            read_photo(unprivileged / name)
    with pytest.raises(ImageFileError, match=f"^{unprivileged / 'closed'}: Permission denied$"):
        list_images(unprivileged / "closed")


@pytest.mark.parametrize(
    "name", ["absent", "a.txt/below", "loop", "nowhere", "a" * 300, "new\nline"]
)
def test_nothing_there_is_one_line(tmp_path, name):
    make(tmp_path, "a.txt")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("absent")
    with pytest.raises(ImageFileError) as caught:
        list_images(tmp_path / name)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_without_images_is_one_line(tmp_path):
    make(tmp_path, "a.txt", "sub/b.txt", "sub/.c.png")
    for recursive in (False, True):
        with pytest.raises(ImageFileError, match=r"without images \(\.png, ") as caught:
            list_images(tmp_path, recursive=recursive)
        assert ("sub-folders" in str(caught.value)) == (not recursive)


def outputs(*names, **options):
    root, folder = Path("in"), Path("out")
    named = name_outputs([root / name for name in names], root, folder, **options)
    return {str(p.relative_to(root)): str(q.relative_to(folder)) for p, q in named.items()}


def test_results_mirror_the_folders(tmp_path):
    assert outputs("a.jpg", "sub/deep/b.tif") == {
        "a.jpg": "a.png",
        "sub/deep/b.tif": "sub/deep/b.png",
    }
    assert outputs("a.jpg", suffix="_x4", format="webp") == {"a.jpg": "a_x4.webp"}
    assert outputs("a.b.jpg", "photo") == {"a.b.jpg": "a.b.png", "photo": "photo.png"}


def test_images_of_one_stem_keep_their_suffix():
    assert outputs("a.jpg", "a.png", "b.png", "sub/a.png") == {
        "a.jpg": "a.jpg.png",
        "a.png": "a.png.png",
        "b.png": "b.png",
        "sub/a.png": "sub/a.png",
    }
    assert outputs("a.jpg", "A.png", suffix="_x4") == {
        "a.jpg": "a.jpg_x4.png",
        "A.png": "A.png_x4.png",
    }
    # Where a folder is to be, there can be no file.
    assert outputs("b.jpg", "b.png/c.jpg")["b.jpg"] == "b.jpg.png"
    # One file as macOS and others write its name.
    composed = unicodedata.normalize("NFC", "é")
    assert set(outputs(f"{composed}.jpg", "e\u0301.png").values()) == {
        f"{composed}.jpg.png",
        "e\u0301.png.png",
    }


CONTRIVED = [
    ["a.png", "a.jpg", "a.png.webp"],
    ["a.png", "a.jpg", "a.png.webp", "a.png.tif", "a.png.webp.bmp"],
    ["a.png", "A.png", "a.PNG", "A.PNG"],
    ["a.png", "A.png", "a.png-2.jpg", "a.png-2.png", "A.png-2.png-2.png"],
    ["A/x.png", "a/x.png", "a/x.jpg", "a.png"],
    ["straße.png", "STRASSE.png", "strasse.jpg"],
    ["e\u0301.png", "\u00e9.png", "E\u0301.jpg"],
    ["\u1fb4.png", "\u03b1\u0345\u0301.png"],  # one letter, whose accents have no order
    ["a.jpg", "a.png/b.jpg", "a.jpg.png/c.jpg", "a.jpg-2.png/d.jpg"],
]


@pytest.mark.parametrize("names", CONTRIVED, ids=" ".join)
@pytest.mark.parametrize("options", [{}, {"suffix": "-2"}, {"format": "webp"}], ids=str)
def test_no_two_results_are_the_same_in_whatever_order(names, options):
    first = outputs(*names, **options)
    for order in itertools.islice(itertools.permutations(names), 24):
        assert outputs(*order, **options) == first
    assert first.keys() == set(names)

    def alike(text):
        return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())

    files = {alike(name) for name in first.values()}
    assert len(files) == len(names)
    folders = {alike(str(parent)) for name in first.values() for parent in Path(name).parents}
    assert not files & folders
    for name, out in first.items():
        assert Path(out).parent == Path(name).parent


def test_an_image_from_elsewhere_is_refused():
    with pytest.raises(ValueError, match="elsewhere"):
        name_outputs([Path("elsewhere/a.png")], Path("in"), Path("out"))


def test_a_mask_is_the_file_itself_or_at_the_same_place(tmp_path):
    masks = make(tmp_path / "masks", "a.png", "sub/b.PNG", "c.png", "c.jpg", "d.txt", "d.webp")
    root = tmp_path / "photos"

    def found(name):
        return str(find_mask(masks, root / name, root).relative_to(masks))

    assert find_mask(masks / "a.png", root / "sub" / "b.jpg", root) == masks / "a.png"
    assert found("a.png") == "a.png"
    assert found("a.jpg") == "a.png"
    assert found("sub/b.jpg") == "sub/b.PNG"
    assert found("c.jpg") == "c.jpg"
    assert found("d.tif") == "d.webp"


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("b.jpg", ["masks", "photos/b.jpg", "no mask", "b.jpg"]),
        ("sub/c.jpg", ["masks/sub", "photos/sub/c.jpg", "no mask"]),
        ("c.tif", ["masks", "photos/c.tif", "c.jpg", "c.png", "several"]),
        ("other/a.png", ["masks/other", "no mask"]),
    ],
)
def test_a_mask_that_is_not_there_or_not_clear_is_one_line(tmp_path, image, words):
    masks = make(tmp_path / "masks", "a.png", "c.png", "c.jpg", "sub/a.png", "b.txt")
    with pytest.raises(ImageFileError) as caught:
        find_mask(masks, tmp_path / "photos" / image, tmp_path / "photos")
    assert all(word in str(caught.value) for word in words)
    assert len(str(caught.value).splitlines()) == 1


def test_photos_are_not_taken_for_their_own_masks(tmp_path):
    photos = make(tmp_path / "photos", "a.png")
    with pytest.raises(ImageFileError, match="another"):
        find_mask(photos, photos / "a.png", photos)


def test_masks_of_names_with_accents_are_found_however_these_are_written(tmp_path):
    masks = make(tmp_path / "masks", "e\u0301.png")
    found = find_mask(masks, tmp_path / "\u00e9.jpg", tmp_path)
    assert os.path.samefile(found, masks / "e\u0301.png")


def test_processes_share_files_though_they_find_others_meanwhile(tmp_path):
    files = [File(tmp_path / f"{i:03}" / "image.png", tmp_path / f"{i}.png") for i in range(200)]
    shares = [share_of(files, process, 3) for process in range(3)]
    assert sorted(f.source for share in shares for f in share) == sorted(f.source for f in files)
    assert min(map(len, shares)) > 30
    assert share_of(files[50:], 1, 3) == [f for f in shares[1] if f in files[50:]]
    assert share_of(files, 0, 1) == files


def test_no_result_takes_the_place_of_an_image_beside_the_one_to_restore(tmp_path):
    photos = tmp_path / "photos"
    make(photos, "a.jpg", "a.png")
    with pytest.raises(ValueError, match="the images' own folder; name another, or a suffix=TEXT"):
        find_files(photos / "a.jpg", photos)
    (file,) = find_files(photos / "a.jpg", photos, suffix="_x4")
    assert file.target == photos / "a_x4.png"


def test_no_result_takes_the_place_of_a_mask(tmp_path):
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    make(photos, "a.jpg")
    make(masks, "a.png", "one/b.png")
    for out, mask in ((masks, masks), (masks, masks / "a.png"), (masks / "new", masks)):
        with pytest.raises(ValueError, match=r"could replace a mask; name another out_path=FOLDER"):
            find_files(photos, out, mask_path=mask)
    (file,) = find_files(photos, masks / "one", mask_path=masks / "a.png")
    assert file.target == masks / "one" / "a.png"
    assert file.mask() == masks / "a.png"
