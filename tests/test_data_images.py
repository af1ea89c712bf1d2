"""images:PATH: what is read, in which order, and what is refused."""

import os

import numpy as np
import pytest
from etils import epath
from PIL import Image

from lmjax.data import Examples, images
from lmjax.errors import InputError


def draw(path, shape=(6, 6), seed=0) -> np.ndarray:
    """A file of noise; returns its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def folder(tmp_path):
    """Two classes of six grey images each."""
    for number in range(6):
        for name in ("cat", "dog"):
            draw(tmp_path / "set" / name / f"{number}.png", seed=number)
    return tmp_path / "set"


def load(folder, **settings):
    settings = {"held_out": 4} | settings
    return Examples(source=f"images:{folder}", **settings).load()


def refusal(folder, **settings) -> str:
    with pytest.raises(InputError) as error:
        load(folder, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_per_class_is_split_in_proportion(folder):
    dataset = load(folder)
    assert dataset.class_names == ["cat", "dog"]
    assert len(dataset.train) == 8
    assert np.bincount(dataset.test.targets).tolist() == [2, 2]
    assert dataset.train.shape == (6, 6, 1)
    seen = {x.tobytes() for x in (*dataset.train.inputs, *dataset.test.inputs)}
    drawn = {np.asarray(Image.open(path)).tobytes() for path in folder.rglob("*.png")}
    assert seen == drawn


@pytest.mark.parametrize("held", ["test", "val"])
def test_train_and_test_folders_are_the_parts(tmp_path, held):
    for name in ("cat", "dog"):
        for number in range(3):
            draw(tmp_path / "train" / name / f"{number}.png", (6, 6, 3), seed=number)
    pixels = draw(tmp_path / held / "dog" / "x.png", (6, 6, 3), seed=9)
    draw(tmp_path / held / "cat" / "x.png", (6, 6, 3))
    batch = next(load(tmp_path).evaluation(2))
    assert batch["targets"].tolist() == [0, 1]
    assert np.array_equal(batch["inputs"][1], pixels.astype(np.float32) / np.float32(255))
    draw(tmp_path / held / "cow" / "x.png", (6, 6, 3))
    assert "cow: no class of" in refusal(tmp_path)


def test_the_order_is_not_the_file_systems(folder, monkeypatch):
    plain, listdir = load(folder), os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listdir(path), reverse=True))
    turned = load(folder)
    assert [*os.listdir(folder)] == ["dog", "cat"]
    assert plain.digest == turned.digest
    assert np.array_equal(plain.rows(0, 0, 8)["inputs"], turned.rows(0, 0, 8)["inputs"])


@pytest.mark.parametrize("pieces", [[40], [1] * 40, [13, 20, 7]])
def test_files_are_read_by_index_as_from_memory(folder, pieces):
    whole = load(folder).rows(5, 0, 40)
    by_index = load(folder, memory_gb=0.0)
    edges = np.cumsum([0, *pieces])
    read = [by_index.rows(5, int(a), n) for a, n in zip(edges, pieces, strict=False)]
    for name, rows in whole.items():
        assert np.array_equal(rows, np.concatenate([piece[name] for piece in read]))
    assert not np.array_equal(whole["inputs"], by_index.rows(6, 0, 40)["inputs"])


def test_the_digest_follows_a_pixel_in_memory_and_on_the_disk(folder):
    before = [load(folder, memory_gb=memory).digest for memory in (2.0, 0.0)]
    draw(folder / "cat" / "0.png", seed=77)
    after = [load(folder, memory_gb=memory).digest for memory in (2.0, 0.0)]
    assert len({*before, *after}) == 4


def test_grey_and_colour_together_are_colour(folder):
    draw(folder / "cat" / "0.png", (6, 6, 3))
    dataset = load(folder)
    assert dataset.train.shape == (6, 6, 3)
    colours = np.ptp(np.concatenate([dataset.train.inputs, dataset.test.inputs]), axis=-1)
    assert np.sum(colours.reshape(12, -1).max(1) > 0) == 1


def test_sizes_agree_or_are_made_to(folder):
    pixels = draw(folder / "cat" / "0.png", (9, 6))
    told = refusal(folder)
    assert "image_size = 0" in told
    assert "0.png is 9 x 6, but" in told
    dataset = load(folder, image_size=6)
    everything = np.concatenate([dataset.train.inputs, dataset.test.inputs])
    middle = pixels[1:7]  # the top edge is at (9 - 6) // 2
    assert any(np.array_equal(x[:, :, 0], middle) for x in everything)
    assert load(folder, image_size=3).train.shape == (3, 3, 1)


def spoil_text(folder):
    (folder / "dog" / "2.png").write_bytes(b"no image")


def spoil_half(folder):
    path = folder / "dog" / "2.png"
    path.write_bytes(path.read_bytes()[:60])


def spoil_nothing(folder):
    (folder / "dog" / "2.png").write_bytes(b"")


def spoil_deep(folder):
    Image.fromarray(np.zeros((6, 6), np.uint16)).save(folder / "dog" / "2.png")


def spoil_kind(folder):
    (folder / "dog" / "2.gif").write_bytes(b"GIF89a")


def spoil_class(folder):
    (folder / "emu").mkdir()


def spoil_single(folder):
    draw(folder / "emu" / "only.png")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_text, "dog/2.png: cannot be read as an image"),
        (spoil_half, "dog/2.png: cannot be read as an image"),
        (spoil_nothing, "dog/2.png: cannot be read as an image"),
        (spoil_deep, "dog/2.png: pixels of mode I;16; 8 bits a channel are needed"),
        (spoil_kind, "dog/2.gif: neither PNG nor JPEG"),
        (spoil_class, "emu: the folder of this class is empty"),
        (spoil_single, "emu: one image, so none can be held out"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_name(folder, spoil, told):
    spoil(folder)
    assert f"{folder}/{told}" in refusal(folder)


def test_one_class_no_class_and_no_folder_are_refused(tmp_path):
    assert "no such folder" in refusal(tmp_path / "nowhere")
    assert "holds no folders" in refusal(tmp_path)
    draw(tmp_path / "cat" / "0.png")
    assert "holds the one class cat" in refusal(tmp_path)


def test_more_cannot_be_held_out_than_there_are(folder):
    assert "held_out = 7: must be >= 2 and <= 6" in refusal(folder, held_out=7)


def test_jpeg_is_read_as_pillow_reads_it(tmp_path):
    for name in ("cat", "dog"):
        for number in range(2):
            draw(tmp_path / name / f"{number}.JPG", (16, 16, 3), seed=number)
    shape = (16, 16, 3)
    read = images.decoded(epath.Path(tmp_path / "cat" / "1.JPG"), shape, False)
    assert np.array_equal(read, np.asarray(Image.open(tmp_path / "cat" / "1.JPG")))
    assert load(tmp_path, held_out=2).train.shape == shape
