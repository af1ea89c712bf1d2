"""Augmentation against scipy, numpy and the papers' formulas, and its place in the step."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lmjax import cli
from lmjax.augmentation import ImageAugmentation, NoAugmentation
from lmjax.augmentation.geometry import shifted
from lmjax.augmentation.image import window_of
from lmjax.augmentation.mixing import cut_mask, mixed
from lmjax.experiment import Experiment
from lmjax.parallel import compile_program
from lmjax.rng import key_for
from lmjax.tasks import Classification, Task

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-5  # of pixels in [0, 1]
VISIBLE = 1e-2
OFF = ImageAugmentation(flip=False, crop_padding=0)
MIXES = dataclasses.replace(OFF, mixup=0.4, cutmix=1.0)
EVERYTHING = ImageAugmentation(
    crop_area=0.5, rotate_degrees=20.0, scale=0.2, crop_padding=2, mixup=0.4, cutmix=1.0
)


def distance(ours: Any, theirs: Any) -> float:
    assert np.shape(ours) == np.shape(theirs)
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())


def digits(count: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(count)
    return {
        "inputs": jnp.asarray(rng.uniform(size=(count, 8, 8, 1)), jnp.float32),
        "targets": jnp.asarray(rng.integers(0, 10, count), jnp.int32),
        "weights": jnp.ones(count),
    }


def apply(augmentation: ImageAugmentation, batch: Any, seed: int = 0) -> Any:
    run = jax.jit(lambda batch, key: augmentation.apply(batch, key, 10))
    return jax.tree.map(np.asarray, run(batch, key_for(seed, "augment")))


def test_windows_have_the_areas_and_sides_that_are_asked_for():
    uniform = np.random.default_rng(0).uniform(size=(500, 4)).astype(np.float32)
    draw = jax.jit(jax.vmap(lambda u: window_of(u, 0.3, (30, 40, 3))))
    top, left, height, width = map(np.asarray, draw(uniform))
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max() / 30, (left + width).max() / 40) <= 1 + 1e-6
    whole = (height < 30) & (width < 40)  # sides that were not cut to the image's
    areas, aspects = (height * width / 1200)[whole], (width / height)[whole] * 3 / 4
    assert areas.min() >= 0.3 - 1e-6
    assert areas.min() < 0.35
    assert aspects.min() > 0.749
    assert aspects.max() < 1.334
    assert aspects.max() - aspects.min() > 0.4


def test_flips_equal_numpy_s_and_come_half_the_time():
    batch = digits(256)
    told = apply(dataclasses.replace(OFF, flip=True), batch)["inputs"]
    x = np.asarray(batch["inputs"])
    kept = np.array([np.array_equal(a, b) for a, b in zip(told, x, strict=True)])
    assert np.array_equal(told[~kept], np.flip(x[~kept], 2))
    assert not np.array_equal(told[~kept], np.flip(x[~kept], 1))
    assert stats.binomtest(int(kept.sum()), 256).pvalue > 0.01


def test_shifts_are_crops_of_the_padded_image_and_all_of_them_come():
    batch = digits(256)
    told = apply(dataclasses.replace(OFF, crop_padding=2), batch)["inputs"]
    padded = np.pad(np.asarray(batch["inputs"]), ((0, 0), (2, 2), (2, 2), (0, 0)))
    places = [
        [
            (row, column)
            for row in range(5)
            for column in range(5)
            if np.array_equal(one, whole[row : row + 8, column : column + 8])
        ]
        for one, whole in zip(told, padded, strict=True)
    ]
    assert all(len(found) == 1 for found in places)
    assert len({found[0] for found in places}) == 25
    down = shifted(batch["inputs"][0], jnp.int32(1), jnp.int32(0), 2)
    assert np.array_equal(down[1:], batch["inputs"][0][:-1])


def test_mixup_is_the_papers_formula():
    batch, keep = digits(6), np.random.default_rng(0).uniform(size=6).astype(np.float32)
    hard = np.eye(10)[batch["targets"]]
    images, targets = mixed(
        batch["inputs"], jnp.asarray(hard, jnp.float32), jnp.asarray(keep)[:, None, None]
    )
    x = np.asarray(batch["inputs"], np.float64)
    for i in range(6):
        own, other = float(keep[i]), 1 - float(keep[i])
        assert distance(images[i], own * x[i] + other * x[i - 1]) < TOLERANCE
        assert distance(targets[i], own * hard[i] + other * hard[i - 1]) < TOLERANCE
        assert distance(images[i], other * x[i] + own * x[i - 1]) > VISIBLE


@pytest.mark.parametrize("middle", [(0, 0), (5, 9), (11, 15), (3, 12)])
@pytest.mark.parametrize("share", [0.0, 0.31, 0.5, 0.97, 1.0])
def test_cutmix_cuts_the_papers_window(share, middle):
    """The window of the paper's equation 2, in the authors' whole pixels, by numpy's slices."""
    kept = np.ones((12, 16))
    height, width = (int(side * np.sqrt(1 - share)) // 2 for side in (12, 16))
    (row, column), (top, left) = middle, (max(0, middle[0] - height), max(0, middle[1] - width))
    kept[top : row + height, left : column + width] = 0
    ours = cut_mask(jnp.float32(share), *map(jnp.int32, middle), 12, 16)
    assert np.array_equal(ours, kept.astype(bool))


def test_a_mixture_has_the_targets_of_its_pixels_and_is_of_either_kind():
    batch = digits(256)
    told = apply(MIXES, batch)
    x, targets = np.asarray(batch["inputs"]), np.asarray(batch["targets"])
    assert np.allclose(told["targets"].sum(1), 1, atol=1e-6)
    cuts, owns = [], []
    for i, mixture in enumerate(told["inputs"]):
        cuts.append(bool(np.all((mixture == x[i]) | (mixture == x[i - 1]))))
        own = (mixture == x[i]).mean()
        if not cuts[-1]:  # the share that fits x_i and x_(i-1) best
            step = (x[i] - x[i - 1]).ravel()
            own = ((mixture - x[i - 1]).ravel() @ step) / (step @ step)
            assert distance(mixture, own * x[i] + (1 - own) * x[i - 1]) < TOLERANCE
        expected = own * np.eye(10)[targets[i]] + (1 - own) * np.eye(10)[targets[i - 1]]
        assert distance(told["targets"][i], expected) < TOLERANCE
        owns.append(own)
    assert stats.binomtest(sum(cuts), 256).pvalue > 0.01
    assert min(owns) < 0.1
    assert max(owns) > 0.9


@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_shares_are_drawn_from_beta(alpha):
    draw = jax.jit(jax.vmap(lambda key: dataclasses.replace(OFF, mixup=alpha).kept(key, 1, 1)))
    shares = np.asarray(draw(jax.random.split(jax.random.key(1), 2000))).ravel()
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert stats.kstest(shares, stats.beta(2 * alpha, alpha).cdf).pvalue < 1e-6


def test_cut_shares_are_spread_as_numpy_s():
    keys, alone = jax.random.split(jax.random.key(0), 2000), dataclasses.replace(OFF, cutmix=1.0)
    ours = jax.jit(jax.vmap(lambda key: alone.kept(key, 32, 24).mean()))(keys)
    rng, theirs = np.random.default_rng(0), []
    shares = rng.beta(1, 1, 2000)
    for share, row, column in zip(
        shares, rng.integers(0, 32, 2000), rng.integers(0, 24, 2000), strict=True
    ):
        kept = np.ones((32, 24))
        height, width = (int(side * np.sqrt(1 - share)) // 2 for side in (32, 24))
        kept[max(0, row - height) : row + height, max(0, column - width) : column + width] = 0
        theirs.append(kept.mean())
    assert stats.ks_2samp(np.asarray(ours), theirs).pvalue > 0.01
    assert stats.ks_2samp(np.asarray(ours), shares).pvalue < 1e-6  # what is clipped is kept


def test_padding_is_mixed_into_nothing():
    batch = digits(256)
    full = apply(MIXES, batch)
    changed = [i for i in range(256) if not np.array_equal(full["inputs"][i], batch["inputs"][i])]
    batch["weights"] = batch["weights"].at[changed[0] - 1].set(0.0)
    told = apply(MIXES, batch)
    assert np.array_equal(told["inputs"][changed[0]], batch["inputs"][changed[0]])
    assert told["targets"][changed[0]].max() == 1
    assert np.array_equal(told["inputs"][changed[1:]], full["inputs"][changed[1:]])


@pytest.mark.parametrize("rows", [4, 8])
def test_an_image_depends_on_its_key_and_on_no_other(rows):
    """But for mixing, which takes the image before it as well."""
    alone = dataclasses.replace(EVERYTHING, mixup=0.0, cutmix=0.0)
    batch = digits(16)
    part = {name: x[:rows] for name, x in batch.items()}
    whole = apply(alone, batch)["inputs"]
    assert np.array_equal(apply(alone, part)["inputs"], whole[:rows])
    assert not np.array_equal(apply(alone, part, seed=1)["inputs"], whole[:rows])
    swapped = {name: x[::-1] for name, x in batch.items()}
    assert not np.array_equal(apply(alone, swapped)["inputs"][::-1], whole)


def with_augmentation(experiment: Experiment, augmentation: Any, **changes: Any) -> Experiment:
    task = dataclasses.replace(experiment.task, augmentation=augmentation)
    return dataclasses.replace(experiment, task=task, **changes)


def first_step(experiment: Experiment, step: int = 0) -> tuple[Any, Any, Any]:
    """(program, batch on the device, state after an update made as number `step`)."""
    batch = experiment.data.load().batch(0, 0, experiment.batch_size)
    program = compile_program(experiment, batch)
    state = program.init(program.knobs)
    [placed] = program.place(batch)
    state = dataclasses.replace(state, step=jnp.int32(step))
    return program, placed, program.train_step(state, placed, None, program.knobs)[0]


def apart(one: Any, two: Any) -> float:
    return max(jax.tree.leaves(jax.tree.map(distance, one.params, two.params)))


def test_accumulation_augments_the_same_and_another_step_does_not(tiny_mlp):
    moved = ImageAugmentation(crop_padding=1, mixup=0.4)
    whole = with_augmentation(tiny_mlp, moved)
    pieces = with_augmentation(tiny_mlp, moved, accumulation=4)
    once = first_step(whole)[2]
    assert apart(once, first_step(pieces)[2]) < 1e-6
    assert apart(once, first_step(whole, step=1)[2]) > 1e-4
    assert apart(once, first_step(tiny_mlp)[2]) > 1e-4


def test_evaluation_never_augments(tiny_mlp):
    moved = ImageAugmentation(crop_padding=1, mixup=0.4)
    program, placed, state = first_step(with_augmentation(tiny_mlp, moved))
    plain = first_step(tiny_mlp)[0]
    ours, theirs = (p.eval_step(state, placed) for p in (program, plain))
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, theirs))


def test_what_is_off_costs_nothing(tiny_mlp):
    class Bare(Classification):
        augment = Task.augment

    def lowered(experiment: Experiment) -> str:
        batch = experiment.data.load().batch(0, 0, experiment.batch_size)
        program = compile_program(experiment, batch)
        step = program.train_step.lower(program.abstract_state, batch, None, program.knobs)
        return step.as_text()

    bare = lowered(dataclasses.replace(tiny_mlp, task=Bare(model=tiny_mlp.task.model)))
    assert lowered(tiny_mlp) == bare
    assert lowered(with_augmentation(tiny_mlp, NoAugmentation())) == bare
    assert lowered(with_augmentation(tiny_mlp, ImageAugmentation())) != bare


def test_labels_drawn_from_the_model_stay_classes(tiny_mlp):
    task = with_augmentation(tiny_mlp, MIXES).task
    batch = jax.tree.map(jnp.asarray, apply(MIXES, digits(256)))
    assert batch["targets"].shape == (256, 10)
    variables = {"params": first_step(tiny_mlp)[2].params}
    drawn = task.with_sampled_targets(variables, batch, key_for(0, "labels"))
    assert drawn["targets"].shape == (256,)
    assert drawn["targets"].dtype == jnp.int32
    assert np.isfinite(task.outcome(variables, drawn, None).loss.total)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("task.augmentation:imag", "nearest: image"),
        (
            "task.augmentation:image --task.augmentation.crop-padding 8",
            "task.augmentation.crop_padding = 8: must be less than the 8 pixels of an image's side",
        ),
        (
            "task.augmentation:image --task.augmentation.rotate-degrees 200",
            "task.augmentation.rotate_degrees = 200.0: must be >= 0 and <= 180",
        ),
        ("task.augmentation:image --task.augmentation.mixup -1", "task.augmentation.mixup = -1.0"),
        ("task.augmentation:image --task.augmentation.crop-area 1", "crop_area = 1.0"),
    ],
)
def test_bad_values_are_refused(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "digits_fcn", "--steps", "1", *words.split()]) == 2
    assert told in capsys.readouterr().err


def test_examples_that_are_no_images_are_refused():
    with pytest.raises(ValueError, match="takes images"):
        ImageAugmentation().check((64,))
    ImageAugmentation().check((8, 8, 1))


DEVICES = """
import json
import jax, jax.numpy as jnp, numpy as np
from lmjax.augmentation import ImageAugmentation
from lmjax.mesh import Parallel, laid_out, make_mesh, whole
from lmjax.rng import key_for

everything = ImageAugmentation(rotate_degrees=20.0, crop_padding=2, mixup=0.4, cutmix=1.0)
rng = np.random.default_rng(0)
batch = {"inputs": rng.uniform(size=(16, 8, 8, 1)).astype(np.float32),
         "targets": rng.integers(0, 10, 16).astype(np.int32), "weights": np.ones(16, np.float32)}
told = []
for devices in (1, 8):
    mesh = make_mesh(Parallel(), jax.devices()[:devices])
    rows = laid_out(mesh, ("batch",))
    run = jax.jit(lambda batch: everything.apply(batch, key_for(0, "augment"), 10),
                  in_shardings=rows, out_shardings=rows)
    out = run(batch)
    told.append(jax.device_get(out))
largest = max(float(np.max(np.abs(told[0][n] - told[1][n]))) for n in batch)
moved = float(np.max(np.abs(told[0]["inputs"] - batch["inputs"])))
print(json.dumps({"devices": len(out["inputs"].addressable_shards), "largest": largest,
                  "moved": moved}))
"""


def test_eight_devices_augment_as_one(eight_devices):
    told, _ = eight_devices(DEVICES)
    assert told["devices"] == 8
    assert told["largest"] < 1e-6
    assert told["moved"] > 0.1
