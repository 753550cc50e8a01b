"""A folder of images as a data set: pixels, split, cache, and what is said of bad files."""

import contextlib
import shutil
import warnings

import numpy as np
import pytest
from folder_fixtures import image, two_classes, write_images
from path_fixtures import obeying_permissions
from PIL import Image, PngImagePlugin

from seanet_jax import InputError
from seanet_jax.data import cache, folder, image_file, memory
from seanet_jax.data.folder import load_folder
from seanet_jax.data.image_file import open_image, to_pixels


@pytest.fixture(autouse=True)
def _cache_here(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".xdg"))


def by_image(data):
    """The split and class of each image, by its pixels."""
    names = data.image_spec.class_names
    return {
        image.tobytes(): (split, names[label])
        for split in ("train", "test")
        for image, label in zip(getattr(data, f"{split}_images"), getattr(data, f"{split}_labels"), strict=True)
    }


def same(first, second):
    return first.sha256() == second.sha256() and first.image_spec == second.image_spec


def refusal(*args, **options):
    with pytest.raises(InputError) as refused:
        load_folder(*args, **options)
    message = str(refused.value)
    assert message.isprintable()
    return message


def test_training_sees_the_pixels_that_predict_sees(tmp_path):
    two_classes(tmp_path, 4, ("train", "test"))
    picture = image(99, (41, 23))
    picture.save(tmp_path / "train/cat/photo.jpg", quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "train/dog/turned.jpg", exif=exif)
    picture.convert("L").save(tmp_path / "train/dog/gray.png")
    picture.convert("P").save(tmp_path / "train/dog/palette.png", transparency=3)
    picture.convert("RGBA").rotate(20).save(tmp_path / "train/dog/alpha.webp")
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save(tmp_path / "train/dog/16_bits.png")
    data = load_folder(tmp_path, image_size=24)
    loaded = by_image(data)
    paths = sorted(path for path in tmp_path.glob("t*/*/*"))
    assert len(paths) == len(loaded) == 22
    for path in paths:
        with open_image(path) as opened:
            pixels = to_pixels(opened, data.image_spec)
        assert loaded[pixels.tobytes()] == path.relative_to(tmp_path).parts[:2]


def test_mean_and_deviation_are_those_of_the_training_images(tmp_path):
    data = load_folder(two_classes(tmp_path))
    pixels = data.train_images.astype(np.float64) / 255
    np.testing.assert_allclose(data.image_spec.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.image_spec.std, pixels.std((0, 1, 2)), rtol=1e-12)
    assert data.name == "folder" and data.flip


def test_images_of_one_color_have_a_deviation(tmp_path):
    two_classes(tmp_path, 1)
    for name, color in (("cat/0.png", (9, 9, 0)), ("dog/0.png", (9, 7, 0))):
        Image.new("RGB", (5, 5), color).save(tmp_path / name)
    write_images(tmp_path / "test", ["cat/1.png", "dog/1.png"])
    (tmp_path / "train").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / name).rename(tmp_path / "train" / name)
    spec = load_folder(tmp_path).image_spec
    np.testing.assert_allclose(spec.mean, (9 / 255, 8 / 255, 0))
    np.testing.assert_allclose(spec.std, (1, 1 / 255, 1))


@pytest.mark.parametrize("fraction", [0.1, 0.5, None])
def test_a_fraction_of_each_class_is_test(tmp_path, fraction):
    data = load_folder(two_classes(tmp_path, 200), image_size=2, test_fraction=fraction)
    assert len(data.train_labels) + len(data.test_labels) == 400
    expected = 0.2 if fraction is None else fraction
    for label in (0, 1):
        share = np.mean(data.test_labels == label) * len(data.test_labels) / 200
        assert abs(share - expected) < 3 * (expected * (1 - expected) / 200) ** 0.5


def test_the_split_depends_on_the_content_of_each_file_alone(tmp_path):
    before = by_image(load_folder(two_classes(tmp_path / "images")))
    write_images(tmp_path / "images", [f"cat/new{i}.png" for i in range(20)], first_seed=500)
    (tmp_path / "images/cat/3.png").rename(tmp_path / "images/cat/aaa.gif")
    after = by_image(load_folder((tmp_path / "images").rename(tmp_path / "moved")))
    assert before.items() < after.items() and len(after) == 80
    higher = by_image(load_folder(tmp_path / "moved", test_fraction=0.3))
    assert {k for k, (split, _) in after.items() if split == "test"} < {
        k for k, (split, _) in higher.items() if split == "test"
    }


def test_the_images_do_not_depend_on_the_names_of_files_or_on_their_order(tmp_path):
    data = load_folder(two_classes(tmp_path / "a"))
    for index, path in enumerate(sorted((tmp_path / "a").rglob("*.png"), reverse=True)):
        target = tmp_path / "b" / path.parent.name / "deeper" / f"{index:03}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    assert same(load_folder(tmp_path / "b"), data)


def test_the_order_mixes_the_classes(tmp_path):
    data = load_folder(two_classes(tmp_path))
    half = len(data.train_labels) // 2
    assert set(data.train_labels[:half]) == set(data.train_labels[half:]) == {0, 1}


def test_rows_are_permuted_in_place():
    random = np.random.default_rng(0)
    for count in (1, 2, 3, 10, 200):
        rows = random.integers(0, 99, (count, 3))
        order = random.permutation(count)
        expected = rows[order]
        folder._permute(rows, order.tolist())
        np.testing.assert_array_equal(rows, expected)


def test_a_second_load_decodes_nothing_and_gives_the_same(tmp_path, monkeypatch, capsys):
    two_classes(tmp_path)
    (tmp_path / "cat/notes.txt").write_text("no image")
    shutil.copy(tmp_path / "cat/1.png", tmp_path / "cat/2.png")
    data = load_folder(tmp_path, skip_broken=True)
    said = capsys.readouterr().err.splitlines()
    monkeypatch.setattr(folder, "open_image", None)
    assert same(load_folder(tmp_path, skip_broken=True), data)
    assert capsys.readouterr().err.splitlines() == said[1:]
    assert said[0].startswith("Decoding the images of ")
    mapped = load_folder(tmp_path, skip_broken=True, mapped=True)
    assert same(mapped, data) and isinstance(mapped.train_images, np.memmap)
    assert capsys.readouterr().err == ""
    # The broken file is remembered too.
    assert "1 of 61 files cannot be read as images" in refusal(tmp_path)


def test_a_folder_has_one_cache_by_whatever_path_it_is_named(tmp_path, monkeypatch):
    data = load_folder(two_classes(tmp_path / "images"))
    monkeypatch.setattr(folder, "open_image", None)
    monkeypatch.chdir(tmp_path)
    assert same(load_folder("images"), data)


def test_settings_of_the_process_are_as_before(tmp_path, monkeypatch):
    """Threads that change settings of Pillow and of warnings at the same time may leave them changed."""
    filters, limit = list(warnings.filters), PngImagePlugin.MAX_TEXT_CHUNK

    def leaving_settings(path, budget, **keywords):
        warnings.simplefilter("ignore")
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
        return open_image(path, budget, **keywords)

    monkeypatch.setattr(folder, "open_image", leaving_settings)
    load_folder(two_classes(tmp_path))
    assert (warnings.filters, PngImagePlugin.MAX_TEXT_CHUNK) == (filters, limit)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: image(77).save(path / "cat/new.png"),
        lambda path: (path / "cat/0.png").unlink(),
        lambda path: (path / "cat/0.png").rename(path / "dog/moved.png"),
        lambda path: image(77).save(path / "cat/0.png"),
    ],
    ids=["added", "removed", "moved to another class", "changed"],
)
def test_a_changed_folder_is_decoded_again(tmp_path, change):
    data = load_folder(two_classes(tmp_path / "images"))
    change(tmp_path / "images")
    again = load_folder(tmp_path / "images")
    assert not same(again, data)
    (tmp_path / ".xdg/seanet_jax").rename(tmp_path / ".other")
    assert same(load_folder(tmp_path / "images"), again)


def test_the_cache_keeps_one_file_for_each_folder(tmp_path):
    first, second = two_classes(tmp_path / "first"), two_classes(tmp_path / "second", 20)
    before = load_folder(first)
    load_folder(second)
    assert len(list(cache.cache_dir().iterdir())) == 2
    image(88).save(second / "cat/new.png")
    assert load_folder(second, image_size=8).train_images.shape[1:] == (8, 8, 3)
    assert load_folder(second, test_fraction=0.5).train_images.shape[1:] == (32, 32, 3)
    assert len(list(cache.cache_dir().iterdir())) == 2
    assert same(load_folder(first), before)


def test_files_that_are_no_images_are_named_and_counted(tmp_path, capsys):
    two_classes(tmp_path)
    complete = load_folder(tmp_path)
    for name in ("a.txt", "b.csv", "c.png", "d.png", "e\n.png"):
        (tmp_path / "cat" / name).write_bytes(b"no image")
    message = refusal(tmp_path)
    assert message.startswith(
        f"5 of 65 files cannot be read as images: {tmp_path}/cat/a.txt cannot be read as an image (its"
    )
    assert "c.png" in message and "d.png" not in message
    assert message.endswith(", and 2 more; mend or remove them, or leave them out with --skip-broken")
    capsys.readouterr()
    assert same(load_folder(tmp_path, skip_broken=True), complete)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Left out: 5 of 65 files cannot be read as images: ") and line.endswith(", and 2 more")


def test_a_damaged_image_is_named(tmp_path):
    two_classes(tmp_path)
    path = tmp_path / "dog/7.png"
    path.write_bytes(path.read_bytes()[:200])
    assert f"1 of 60 files cannot be read as images: {path} cannot be read as an image (" in refusal(tmp_path)
    assert len(by_image(load_folder(tmp_path, skip_broken=True))) == 59


def test_an_unreadable_file_is_named_and_read_when_it_may_be(tmp_path):
    two_classes(tmp_path)
    path = tmp_path / "dog/7.png"
    with obeying_permissions():
        path.chmod(0)
        assert f"1 of 60 files cannot be read as images: {path} cannot be read (Permission denied)" in refusal(tmp_path)
        assert len(by_image(load_folder(tmp_path, skip_broken=True))) == 59
        path.chmod(0o600)
        assert len(by_image(load_folder(tmp_path))) == 60


def test_a_failing_disk_is_no_broken_image(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(5, "Input/output error")

    two_classes(tmp_path)
    monkeypatch.setattr(folder.hashlib, "file_digest", fail)
    assert "cannot be read (Input/output error)" in refusal(tmp_path, skip_broken=True)


def test_a_folder_without_a_single_image_is_refused(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("no image")
    message = refusal(tmp_path, skip_broken=True)
    assert f"{tmp_path} gives no training images, because 2 of 2 files cannot be read as images: " in message


def test_classes_without_training_or_test_images_are_named(tmp_path, capsys):
    two_classes(tmp_path)
    write_images(tmp_path, ["emu/1.png", "fox/1.png"], first_seed=300)
    data = load_folder(tmp_path)
    told = capsys.readouterr().err.splitlines()[1:]
    counts = {split: np.bincount(getattr(data, f"{split}_labels"), minlength=4) for split in ("train", "test")}
    expected = []
    for split, title in (("train", "training"), ("test", "test")):
        missing = [name for name, n in zip(data.image_spec.class_names, counts[split], strict=True) if not n]
        if missing:
            expected.append(f"No {title} images in {len(missing)} of 4 classes: {', '.join(missing)}")
    assert told == expected and expected


def test_copies_are_counted_with_an_example(tmp_path, capsys):
    two_classes(tmp_path, 5, ("train", "test"))

    def copy(source, *targets):
        for target in targets:
            shutil.copy(tmp_path / source, tmp_path / target)

    copy("train/cat/0.png", "test/cat/a\n.png", "test/cat/b.png", "train/cat/copy.png")
    copy("train/dog/0.png", "train/cat/dog.png")
    load_folder(tmp_path)
    leaked, repeated, ambiguous = capsys.readouterr().err.splitlines()[1:]
    assert leaked == (
        "Test images that are also training images, which makes the test accuracy too high: 2, such as "
        f"{tmp_path}/train/cat/0.png and {tmp_path}/test/cat/a\\n.png"
    )
    assert repeated.startswith("Copies of an image of the same class: 3, such as ")
    assert ambiguous == (
        "Copies of an image of another class, which no network can tell apart: 1, such as "
        f"{tmp_path}/train/cat/dog.png and {tmp_path}/train/dog/0.png"
    )


def test_copies_are_never_split(tmp_path, capsys):
    two_classes(tmp_path)
    for path in sorted(tmp_path.glob("cat/*.png")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    load_folder(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()[1:]
    assert line.startswith("Copies of an image of the same class: 30, such as ")


def test_images_of_mixed_sizes_become_equal(tmp_path):
    two_classes(tmp_path)
    image(70, (1, 1)).save(tmp_path / "cat/pixel.png")
    image(71, (3, 500)).save(tmp_path / "cat/high.png")
    image(72, (700, 2)).save(tmp_path / "dog/wide.png")
    assert load_folder(tmp_path, image_size=96).train_images.shape[1:] == (96, 96, 3)


def test_too_many_images_for_the_memory_are_refused_before_any_is_decoded(tmp_path, monkeypatch):
    two_classes(tmp_path)
    monkeypatch.setattr(folder, "open_image", None)
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * 60 * 3 * 20**2)
    assert refusal(tmp_path, image_size=64) == (
        "60 images of 64 x 64 pixels need 1,474,560 bytes of memory, half of it on the devices, but 144,000 are free; "
        "choose an --image-size of at most 20, or fewer images"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size is 0; it must be a positive number of pixels"),
        ({"image_size": 2.5}, "image_size is 2.5; it must be"),
        ({"test_fraction": 0}, "test_fraction is 0; it must be between 0 and 1, both excluded"),
        ({"test_fraction": 1.0}, "test_fraction is 1.0; it must be"),
        ({"test_fraction": float("nan")}, "test_fraction is nan; it must be"),
    ],
)
def test_invalid_arguments_are_refused(tmp_path, options, message):
    assert message in refusal(two_classes(tmp_path, 1), **options)


def test_a_fraction_beside_a_folder_of_test_images_is_refused(tmp_path):
    two_classes(tmp_path, 1, ("train", "test"))
    assert "has a folder of test images; leave test_fraction out" in refusal(tmp_path, test_fraction=0.2)


def test_numbers_of_numpy_are_numbers(tmp_path):
    two_classes(tmp_path)
    given = load_folder(tmp_path, image_size=np.int64(8), test_fraction=np.float32(0.5))
    assert same(given, load_folder(tmp_path, image_size=8, test_fraction=0.5))


def test_threads_share_the_memory_for_decoding(tmp_path, monkeypatch):
    """No more is decoded at once than one image may take."""
    two_classes(tmp_path)
    spent, most = 0, 0
    spend = image_file.MemoryBudget.spend

    @contextlib.contextmanager
    def counted(self, count):
        nonlocal spent, most
        with spend(self, count):
            spent += count
            most = max(most, spent)
            yield
            spent -= count

    monkeypatch.setattr(image_file.image_formats, "MOST_MEMORY", 4 * 12 * 10)
    monkeypatch.setattr(image_file.MemoryBudget, "spend", counted)
    monkeypatch.setattr(image_file, "_check_length", lambda path: None)
    load_folder(tmp_path)
    assert most == 4 * 12 * 10
