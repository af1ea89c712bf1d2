"""Shared by all tests: strict ranks, and runs small enough for a laptop."""

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
import simulated

from lmjax import train
from lmjax.data import Examples, Tokens
from lmjax.experiment import Experiment
from lmjax.models import GPT, MLP
from lmjax.optim import AdamW, Constant, Momentum
from lmjax.tasks import Classification, LanguageModel

jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def eight_devices():
    """The function (program, words) -> (the JSON that it prints last, its stderr).

    The program runs in a process that sees eight devices.
    """

    def run(code: str, *words: str) -> tuple[Any, str]:
        process = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "XLA_FLAGS": simulated.flags(8),
            },
        )
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout.splitlines()[-1]), process.stderr

    return run


@pytest.fixture(scope="session", autouse=True)
def shared_compilations(tmp_path_factory):
    """Compile each program once a session: tests run the same small ones again and again."""
    folder = tmp_path_factory.getbasetemp().parent / "compilations"
    os.environ["XDG_CACHE_HOME"] = str(folder.with_name("cache"))  # of processes that tests start
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(scope="session")
def tiny_gpt() -> Experiment:
    """A GPT with dropout on embedded text: 20 steps in about a second once compiled."""
    return Experiment(
        name="tiny_gpt",
        task=LanguageModel(
            model=GPT(depth=2, width=16, heads=2, max_length=16, dropout=0.1),
            showcase_length=8,
        ),
        data=Tokens(sequence_length=16, validation_fraction=0.005),
        optimizer=AdamW(learning_rate=1e-2, clip_norm=1.0),
        steps=20,
        batch_size=8,
        log_every=3,
        evaluate_every=10,
        save_every=7,
    )


@pytest.fixture(scope="session")
def tiny_mlp() -> Experiment:
    """An MLP on embedded digits, with a schedule that does not depend on the number of steps."""
    return Experiment(
        name="tiny_mlp",
        task=Classification(model=MLP(hidden=(16,))),
        data=Examples(),
        optimizer=Momentum(learning_rate=0.1),
        schedule=Constant(),
        steps=12,
        batch_size=32,
        log_every=4,
        evaluate_every=0,
        save_every=5,
    )


@pytest.fixture(scope="session")
def write_tfds():
    """Writes a data set of TFDS by TFDS's own writer, without TensorFlow.

    write_tfds(folder, splits, ...): `splits` maps a name to (inputs, labels); inputs of uint8
    [n, h, w, c] become PNG images, all others tensors. The set is called mnist.
    """
    import io

    import numpy as np
    import tensorflow_datasets as tfds
    from PIL import Image

    def png(x: np.ndarray) -> io.BytesIO:
        file = io.BytesIO()
        Image.fromarray(x[:, :, 0] if x.shape[-1] == 1 else x).save(file, "PNG")
        file.seek(0)
        return file

    def write(folder, splits, *, classes=10, shape=None, supervised=True):
        first = next(iter(splits.values()))[0]
        is_image = first[0].dtype == np.uint8 and first[0].ndim == 3
        kind = tfds.features.Image if is_image else tfds.features.Tensor
        dtype = {} if is_image else {"dtype": first[0].dtype}
        image = kind(shape=shape or first[0].shape, **dtype)
        label = tfds.features.ClassLabel(num_classes=classes)

        class Set(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            name = "mnist"
            VERSION = tfds.core.Version("3.0.1")
            code_path = None

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self,
                    description="Drawn at random.",
                    features=tfds.features.FeaturesDict({"image": image, "label": label}),
                    supervised_keys=("image", "label") if supervised else None,
                    license="CC0",
                )

            def _split_generators(self, dl_manager):
                return {name: self._generate_examples(*part) for name, part in splits.items()}

            def _generate_examples(self, inputs, labels):
                for number, (x, y) in enumerate(zip(inputs, labels, strict=True)):
                    yield number, {"image": png(x) if is_image else x, "label": int(y)}

        tfds.disable_progress_bar()
        Set(data_dir=folder).download_and_prepare(file_format="array_record")
        return str(folder)

    return write


@pytest.fixture(scope="session")
def mnist(tmp_path_factory, write_tfds):
    """A directory of TFDS with a set `mnist` of MNIST's form: 60 + 20 images of noise."""
    import numpy as np

    random = np.random.default_rng(0)

    def part(count: int):
        pixels = random.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
        return pixels, np.arange(count) % 10

    return write_tfds(tmp_path_factory.mktemp("tfds"), {"train": part(60), "test": part(20)})


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, tiny_mlp) -> Path:
    """A run of 12 steps with checkpoints at 10 and 12."""
    path = tmp_path_factory.mktemp("finished") / "run"
    train.run(tiny_mlp, str(path), quiet=True)
    return path


@pytest.fixture
def run(finished_run, tmp_path, monkeypatch) -> Path:
    """A copy of it, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished_run, "run")
    return Path("run")


@pytest.fixture(scope="module")
def collected():
    """What Orbax leaves unfinished when a checkpoint is damaged is collected, with its warnings, in
    the tests that damage one, and not in some later test that allows none."""
    yield
    gc.collect()
