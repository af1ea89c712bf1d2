"""Data sets of TFDS, written by TFDS's own writer and read back by index without TensorFlow."""

import json
import subprocess
import sys

import numpy as np
import pytest

from lmjax.data import Examples, embedded, prepared
from lmjax.data.tables import ArrayTable
from lmjax.errors import InputError

DIGITS = "0a36e20954b35770762bc17298d0b7251852505a179db8135e7b21f753ae2f82"
"""Digest of the default data before it could be read through TFDS: old runs keep their bits."""

ON_DISK = {"memory_gb": 0.0}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A directory of TFDS where the embedded sets are written as they are asked for."""
    return str(tmp_path_factory.mktemp("own"))


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]) for name in a
    )


@pytest.mark.smoke
@pytest.mark.bits
def test_digits_are_the_same_bits_with_and_without_tfds(own):
    plain = Examples().load()
    through = Examples(source="tfds:digits", data_dir=own).load()
    by_index = Examples(source="tfds:digits", data_dir=own, **ON_DISK).load()
    assert plain.digest == through.digest == DIGITS
    assert not isinstance(by_index.train, ArrayTable)
    for dataset in (through, by_index):
        assert same(plain.rows(0, 1400, 100), dataset.rows(0, 1400, 100))
        assert not same(plain.rows(0, 1400, 100), dataset.rows(1, 1400, 100))
        for a, b in zip(plain.evaluation(100), dataset.evaluation(100), strict=True):
            assert same(a, b)


def test_breast_cancer_is_the_same_through_tfds(own):
    plain = Examples(source="breast_cancer", held_out=114).load()
    through = Examples(source="tfds:breast_cancer", data_dir=own).load()
    assert plain.digest == through.digest
    assert through.class_names == ["malignant", "benign"]


def test_the_split_is_scikit_learns():
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    x, y = load_breast_cancer(return_X_y=True)
    split = train_test_split(x, y, test_size=114, stratify=y, random_state=0)
    dataset = Examples(source="breast_cancer", held_out=114).load()
    assert np.array_equal(dataset.train.inputs, split[0].astype(np.float32))
    assert np.array_equal(dataset.test.targets, split[3])


@pytest.mark.parametrize("memory", [2.0, 0.0], ids=["memory", "disk"])
def test_pixels_and_labels_are_tfds_own_reading(mnist, memory):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(f"{mnist}/mnist/3.0.1")
    source = builder.as_data_source("test")
    dataset = Examples(source="tfds:mnist", data_dir=mnist, memory_gb=memory).load()
    batch = next(dataset.evaluation(20))
    assert batch["inputs"].shape == (20, 28, 28, 1)
    assert batch["inputs"].dtype == np.float32
    expected = np.stack([source[number]["image"] for number in range(20)])
    assert np.array_equal(batch["inputs"], expected.astype(np.float32) / np.float32(255))
    assert batch["targets"].tolist() == [source[number]["label"] for number in range(20)]
    assert not np.array_equal(batch["inputs"][::-1], batch["inputs"])


@pytest.mark.parametrize("memory", [2.0, 0.0], ids=["memory", "disk"])
@pytest.mark.parametrize("standardize", [False, True])
def test_rows_do_not_depend_on_how_they_are_cut(mnist, memory, standardize):
    """So that any number of workers, hosts or devices reads the same batches."""
    settings = {"data_dir": mnist, "standardize": standardize}
    dataset = Examples(source="tfds:mnist", memory_gb=memory, **settings).load()
    whole = Examples(source="tfds:mnist", **settings).load().rows(3, 0, 64)  # 60 are an epoch
    for pieces in ([64], [1] * 64, [7, 50, 7], [32, 32], [59, 1, 4]):
        edges = np.cumsum([0, *pieces])
        read = [
            dataset.rows(3, int(start), count) for start, count in zip(edges, pieces, strict=False)
        ]
        assert same(whole, {k: np.concatenate([piece[k] for piece in read]) for k in whole})
    assert not same(whole, dataset.rows(3, 1, 64))


def test_standardised_features_have_scikit_learns_moments():
    from sklearn.preprocessing import StandardScaler

    plain = Examples(source="breast_cancer", held_out=114).load()
    scaled = Examples(source="breast_cancer", held_out=114, standardize=True).load()
    scaler = StandardScaler().fit(plain.train.inputs.astype(np.float64))
    expected = scaler.transform(plain.test.inputs.astype(np.float64))
    batch = next(scaled.evaluation(114))
    np.testing.assert_allclose(batch["inputs"], expected, rtol=0, atol=2e-5)
    assert abs(expected - plain.test.inputs).max() > 1
    assert plain.digest != scaled.digest


def test_the_embedded_texts_come_back_document_by_document(own):
    for name in ("python_docs", "python_stdlib"):
        documents = list(prepared.text_documents(f"tfds:{name}", own))
        assert len(documents) > 50
        assert documents == list(getattr(embedded, name)().values())


def test_texts_that_are_not_there_are_refused(own):
    for words, told in (
        (["tfds:digits"], "has no text; its features are"),
        (["tfds:python_docs", own, "test"], "the splits of python_docs"),
        (["tfds:python_docs", own, "train", "txt"], "nearest: text"),
        (["tfds:python_docs/cpython-0.0.1"], "is not prepared in"),
    ):
        with pytest.raises(InputError, match=told):
            list(prepared.text_documents(words[0], own, *words[2:]))
    names = list(prepared.text_documents("tfds:python_docs", own, feature="name"))
    assert names == [name.encode() for name in embedded.python_docs()]


def test_two_processes_may_write_the_same_set_at_once(tmp_path):
    code = (
        "import sys; from lmjax.data import prepared;"
        "print(len(list(prepared.text_documents('tfds:python_docs', sys.argv[1]))))"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=120)[0].strip() for process in both]
    assert told == [str(len(embedded.python_docs()))] * 2
    left = [path.name for path in (tmp_path / "python_docs" / embedded.INTERPRETER).iterdir()]
    assert left == ["1.0.0"]


def refusal(source: str, data_dir, **settings) -> str:
    with pytest.raises(InputError) as error:
        Examples(source=source, data_dir=str(data_dir), **settings).load()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "source",
    ["tfds:", "tfds:..", "tfds:../mnist", "tfds:/etc", "tfds:a/..", "tfds:a/b/c", "tfds:a:1",
     "tfds:~", "tfds:a b", "tfds:a/.b", "tfds:a\n"],
)  # fmt: skip
def test_odd_names_are_refused_before_the_disk_is_touched(source, monkeypatch):
    monkeypatch.setattr(prepared, "folder", lambda data_dir: pytest.fail("looked at the disk"))
    assert "no data set of TFDS" in refusal(source, "")


def test_what_is_not_prepared_says_how_to_prepare_it(mnist, monkeypatch):
    assert "`lmjax data prepare tfds:cifar10 --data-dir " in refusal("tfds:cifar10", mnist)
    assert "nearest: tfds:mnist" in refusal("tfds:mnits", mnist)
    assert "is not prepared" in refusal("tfds:mnist:9.9.9", mnist)
    monkeypatch.setenv("TFDS_DATA_DIR", mnist)
    assert refusal("tfds:cifar10", "").endswith("`lmjax data prepare tfds:cifar10` does it")
    assert Examples(source="tfds:mnist").load().classes == 10


SIX = (np.zeros((4, 6, 6, 1), np.uint8), np.arange(4))  # four images, four classes


def test_the_held_out_split_is_chosen_by_name(tmp_path, write_tfds):
    write_tfds(tmp_path, {"train": SIX, "extra": SIX})
    told = refusal("tfds:mnist", tmp_path)
    assert "held_out_split" in told
    assert "beside train: extra" in told
    assert "'text'" in refusal("tfds:mnist", tmp_path, held_out_split="text")
    settings = {"data_dir": str(tmp_path), "held_out_split": "extra"}
    assert len(Examples(source="tfds:mnist", **settings).load().test) == 4


@pytest.mark.parametrize(
    ("splits", "options", "told"),
    [
        ({"test": SIX}, {}, "no split train"),
        ({"train": SIX, "validation": SIX}, {"supervised": False}, "does not declare an input"),
        (
            dict.fromkeys(["train", "test"], (np.zeros((4, 3), np.int64), SIX[1])),
            {},
            "Tensor of int64",
        ),
        ({"train": SIX, "test": (SIX[0], [-1, 0, 1, 2])}, {}, "label -1 of example"),
    ],
)
def test_sets_that_are_no_labelled_examples_are_refused(
    tmp_path, write_tfds, splits, options, told
):
    write_tfds(tmp_path, splits, **options)
    assert told in refusal("tfds:mnist", tmp_path)


def test_by_index_a_label_outside_its_range_is_refused_when_it_is_read(tmp_path, write_tfds):
    write_tfds(tmp_path, {"train": SIX, "test": (SIX[0], [-1, 0, 1, 2])})
    dataset = Examples(source="tfds:mnist", data_dir=str(tmp_path), **ON_DISK).load()
    with pytest.raises(InputError, match="label -1 of example"):
        list(dataset.evaluation(4))


def test_an_empty_split_is_refused(tmp_path, write_tfds):
    write_tfds(tmp_path, {"train": SIX, "test": SIX})
    info = tmp_path / "mnist" / "3.0.1" / "dataset_info.json"
    record = json.loads(info.read_text())
    record["splits"][1] |= {"shardLengths": [], "numBytes": "0"}
    info.write_text(json.dumps(record))
    assert "the split test is empty" in refusal("tfds:mnist", tmp_path)


def test_images_of_several_sizes_need_a_size(tmp_path, write_tfds):
    from PIL import Image

    random = np.random.default_rng(0)
    drawn = [random.integers(0, 256, (6 + n, 9, 3), dtype=np.uint8) for n in range(4)]
    part = (drawn, np.arange(4))
    write_tfds(tmp_path, {"train": part, "test": part}, shape=(None, None, 3))
    assert "image_size = 0: the images of" in refusal("tfds:mnist", tmp_path)
    settings = {"data_dir": str(tmp_path), "image_size": 6}
    batch = next(Examples(source="tfds:mnist", **settings).load().evaluation(4))
    whole = {int(label): x for x, label in zip(batch["inputs"], batch["targets"], strict=True)}
    middle = Image.fromarray(drawn[3]).resize((6, 6), Image.Resampling.BICUBIC, box=(0, 0, 9, 9))
    assert np.array_equal(whole[3] * 255, np.asarray(middle).astype(np.float32))
    middle = drawn[0][:, 1:7]  # 6 x 9: the left edge is at (9 - 6) // 2
    assert np.array_equal(np.round(whole[0] * 255), middle.astype(np.float32))


def test_a_set_prepared_as_tfrecord_or_damaged_is_refused(tmp_path, write_tfds):
    write_tfds(tmp_path, {"train": SIX, "test": SIX})
    folder = tmp_path / "mnist" / "3.0.1"
    info = folder / "dataset_info.json"
    text = info.read_text()
    info.write_text(text.replace('"array_record"', '"tfrecord"'))
    told = refusal("tfds:mnist", tmp_path)
    assert "prepared as tfrecord" in told
    assert f"`lmjax data prepare tfds:mnist --data-dir {tmp_path}`" in told
    info.write_text("{")
    assert "not a data set of TFDS" in refusal("tfds:mnist", tmp_path)
    info.write_text(text)
    shard = next(folder.glob("*train*"))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    assert "cannot be read" in refusal("tfds:mnist", tmp_path)
    shard.unlink()
    assert "is missing" in refusal("tfds:mnist", tmp_path)


def test_several_configurations_ask_for_one(tmp_path, write_tfds):
    write_tfds(tmp_path / "x", {"train": SIX, "test": SIX})
    for config in ("red", "blue"):
        target = tmp_path / "y" / "mnist" / config
        target.mkdir(parents=True)
        (tmp_path / "x" / "mnist" / "3.0.1").rename(target / "3.0.1")
        if config == "red":
            assert prepared.find("tfds:mnist", str(tmp_path / "y")) == target / "3.0.1"
            write_tfds(tmp_path / "x", {"train": SIX, "test": SIX})
    told = refusal("tfds:mnist", tmp_path / "y")
    assert told.endswith("CONFIG one of blue, red")
    assert prepared.find("tfds:mnist/red", str(tmp_path / "y")).parent.name == "red"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal("tfds:digits", tmp_path / "file")
