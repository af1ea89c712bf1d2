"""Configurations as words and as JSON: both ways, and refused where they make no sense."""

import dataclasses
import json
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import char_gpt, digits_fcn
from lmjax import overrides
from lmjax.cli import parse_value
from lmjax.errors import FieldError, InputError
from lmjax.experiment import Experiment, run_digest
from lmjax.optim import Lion, Muon, Optimizer, Schedule
from lmjax.parts import Part, alternatives, is_free, leaves, replace, validate
from lmjax.record import difference, from_record, to_record

pytestmark = pytest.mark.smoke

BASE = char_gpt.config()


def change(words: str) -> Experiment:
    return overrides.apply(BASE, words.split(), parse_value)


def test_fields_and_parts_are_changed():
    changed = change("--steps 200 optimizer:muon --optimizer.momentum 0.9 --task.model.depth=6")
    assert changed.steps == 200
    assert changed.optimizer == Muon(momentum=0.9)
    assert changed.task.model.depth == 6
    assert BASE.steps != 200
    assert BASE.optimizer.label == "adamw"


def test_the_place_of_a_swap_does_not_matter():
    assert change("--optimizer.momentum 0.9 optimizer:muon") == change(
        "optimizer:muon --optimizer.momentum 0.9"
    )
    assert change("optimizer:lion --steps 7") == change("--steps 7 optimizer:lion")


def test_switches_and_lists():
    words = ["optimizer:mars", "--optimizer.exact"]
    assert overrides.apply(digits_fcn.config(), words, parse_value).optimizer.exact is True
    words = ["task.model:mlp", "--task.model.hidden", "32", "16"]
    assert overrides.apply(digits_fcn.config(), words, parse_value).task.model.hidden == (32, 16)


def test_a_source_with_a_colon_is_a_value_wherever_it_stands():
    """And a part after a list of them is a part."""
    words = "data:mixture --data.sources tfds:lm1b text:a.txt tokens:b data.each:tokens"
    mixed = change(f"{words} --data.weights 3 2 1 optimizer:lion").data
    assert mixed.sources == ("tfds:lm1b", "text:a.txt", "tokens:b")
    assert mixed.weights == (3.0, 2.0, 1.0)
    made = dataclasses.replace(BASE, data=mixed)
    assert overrides.apply(BASE, overrides.to_words(BASE, made), parse_value) == made
    with pytest.raises(InputError, match="unknown part 'optimzer'; nearest: optimizer"):
        change("optimzer:lion")


@given(
    steps=st.integers(1, 10**6),
    rate=st.floats(1e-9, 1e3),
    label=st.sampled_from(sorted(alternatives(Optimizer))),
    schedule=st.sampled_from(sorted(alternatives(Schedule))),
    source=st.sampled_from(["python_docs", "text:a b/*.txt"]),
)
@settings(max_examples=40, deadline=None)
def test_words_and_records_give_back_what_they_were_made_of(steps, rate, label, schedule, source):
    made = dataclasses.replace(
        BASE,
        steps=steps,
        optimizer=alternatives(Optimizer)[label](learning_rate=rate),
        schedule=alternatives(Schedule)[schedule](),
        data=dataclasses.replace(BASE.data, source=source),
    )
    assert overrides.apply(BASE, overrides.to_words(BASE, made), parse_value) == made
    assert from_record(Experiment, json.loads(json.dumps(to_record(made)))) == made
    assert from_record(Experiment, to_record(made)) != dataclasses.replace(made, steps=steps + 1)


@pytest.mark.parametrize(
    "words",
    [
        "--step 20",
        "--steps abc",
        "--steps 1.5",
        "--steps",
        "--steps 1 2",
        "foo",
        "optimizer:moun",
        "optimiser:muon",
        "--optimizer.momentum 0.9",
        "--compute-dtype float16",
        "--optimizer.clip-norm x",
    ],
)
def test_wrong_words_are_one_line_that_names_them(words):
    with pytest.raises(InputError) as error:
        change(words)
    message = str(error.value)
    assert "\n" not in message
    assert words.split()[0].partition(":")[0] in message


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--data.tokenizer.path x", "it is a field of data.tokenizer:bpe"),
        ("--optimizer.momentum 0.9", "it is a field of optimizer:muon or optimizer:"),
        ("--optimizer.nope 1", "known: --optimizer.learning-rate, --optimizer.weight-decay"),
        (
            "--task.model.layers 3",
            "--task.model.max-length, --task.model.depth, --task",
        ),
        ("--learning-rate 1", "nearest: --optimizer.learning-rate"),
        ("--optimzer.learning-rate 1", "nearest: --optimizer.learning-rate"),
        ("--data.sequence-lenght 1", "nearest: --data.sequence-length"),
        ("--steps 3 optimizer:", "unknown optimizer ''; known: adafactor, ada"),
        ("--steps 1_0", "--steps = 1_0: must be a whole number"),
        ("--seed \u0661", "must be a whole number"),
        ("--optimizer.learning-rate 1_0.5", "must be a number"),
        ("data:mixture --data.weights 1_0 2", "--data.weights = 1_0 2: must be"),
    ],
)
def test_what_was_meant_is_told(words, told):
    with pytest.raises(InputError) as error:
        change(words)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ("--optimizer.learning-rate -1", "optimizer.learning_rate"),
        ("--optimizer.learning-rate 0", "optimizer.learning_rate"),
        ("--optimizer.learning-rate nan", "optimizer.learning_rate"),
        ("--optimizer.learning-rate inf", "optimizer.learning_rate"),
        ("--optimizer.learning-rate 1e300", "optimizer.learning_rate"),
        ("--optimizer.learning-rate 1e-300", "optimizer.learning_rate"),
        ("--optimizer.weight-decay 1e300", "optimizer.weight_decay"),
        ("--optimizer.b2 0.99999999999", "optimizer.b2"),
        ("--optimizer.eps 1e-300", "optimizer.eps"),
        ("--optimizer.clip-norm 1e-320", "optimizer.clip_norm"),
        ("--optimizer.clip-norm 1e-39", "optimizer.clip_norm"),  # which XLA takes for 0
        ("--optimizer.ema-decay 0.999999999999", "optimizer.ema_decay"),
        ("--task.model.norm-eps 1e-300", "task.model.norm_eps"),
        ("--task.model.dropout 0.99999999999", "task.model.dropout"),
        ("--steps 3000000000", "steps"),
        ("--batch-size 999999999999999999999", "batch_size"),
        ("--task.model.vocab-size 10000000000000", "task.model.vocab_size"),
        ("--task.model.max-length 10000000000000", "task.model.max_length"),
        ("--task.model.width 100000000000", "task.model.width"),
        ("data:examples --data.image-size 100000000", "data.image_size"),
        ("--optimizer.b1 1.0", "optimizer.b1"),
        ("--optimizer.eps 0", "optimizer.eps"),
        ("--optimizer.clip-norm -1", "optimizer.clip_norm"),
        ("--optimizer.weight-decay -0.1", "optimizer.weight_decay"),
        ("optimizer:muon --optimizer.auxiliary.b2 1", "optimizer.auxiliary.b2"),
        ("optimizer:muon --optimizer.newton-schulz-steps 0", "optimizer.newton_schulz_steps"),
        ("optimizer:nesterov --optimizer.momentum 1", "optimizer.momentum"),
        ("optimizer:schedule-free-adamw --optimizer.ema-decay .9", "optimizer.ema_decay"),
        ("optimizer:mars --optimizer.auxiliary.weight-decay 1", "optimizer.auxiliary.weight_decay"),
        ("--batch-size 10 --accumulation 3", "batch_size"),
        ("--steps 0", "steps"),
        ("--seed -1", "seed"),
        ("--seed 4294967296", "seed"),
        ("--keep 0", "keep"),
        ("--name a/b", "name"),
        ("--name ..", "name"),
        ("--schedule.warmup-steps 100000", "schedule.warmup_steps"),
        ("--schedule.final 1.5", "schedule.final"),
        ("schedule:wsd --schedule.decay-fraction 0", "schedule.decay_fraction"),
        ("--task.model.heads 3", "task.model.heads"),
        ("--task.model.dropout 1", "task.model.dropout"),
        ("--task.model.unroll 0", "task.model.unroll"),
        ("--data.sequence-length 0", "data.sequence_length"),
        ("--data.validation-fraction 1", "data.validation_fraction"),
    ],
)
def test_wrong_values_name_their_field(words, field):
    with pytest.raises(FieldError) as error:
        validate(change(words))
    assert error.value.field == field
    assert "\n" not in str(error.value)


def test_the_smallest_and_the_nearest_to_one_that_float32_has_are_valid():
    smallest, largest = 2.0**-126, 1 - 2.0**-24
    validate(change(f"--optimizer.clip-norm {smallest} --optimizer.b2 {largest}"))
    validate(change("--optimizer.clip-norm 0 --optimizer.ema-decay 0 --optimizer.b1 0"))


def test_the_untouched_configuration_is_valid():
    validate(BASE)
    validate(digits_fcn.config())


def test_every_part_can_be_built_from_its_defaults():
    def concrete(base: type[Part]):
        for part in alternatives(base).values():
            if part is not Experiment:
                validate(part())
                yield part

    assert len(list(concrete(Part))) >= 15


def test_a_record_constructs_nothing_but_known_parts():
    record = to_record(BASE)
    for broken, told in [
        ({**record, "optimizer": {"part": "os.system"}}, "os.system"),
        ({**record, "optimizer": {"part": "cosine"}}, "cosine"),
        ({**record, "optimizer": "adamw"}, "config.optimizer"),
        ({**record, "steps": "200"}, "config.steps"),
        ({**record, "steps": True}, "config.steps"),
        ({**record, "extra": 1}, "extra"),
        ({k: v for k, v in record.items() if k != "seed"}, "seed"),
        ([], "config"),
    ]:
        with pytest.raises(InputError, match=told):
            from_record(Experiment, broken)
    assert from_record(Experiment, record) == BASE


def another(kind: Any, value: Any) -> Any:
    """Another value of the declared type."""
    if typing.get_origin(kind) is typing.Literal:
        return next(choice for choice in typing.get_args(kind) if choice != value)
    if isinstance(value, bool):
        return not value
    return f"{value}x" if isinstance(value, str) else value + 1


def test_the_digest_covers_what_decides_a_run_and_nothing_else():
    digests = {run_digest(BASE, "data")}
    decides = [path for path in leaves(BASE) if path != "seed" and not is_free(BASE, path)]
    for path in decides:
        digests.add(run_digest(replace(BASE, path, another(*leaves(BASE)[path])), "data"))
    assert len(digests) == len(decides) + 1
    assert run_digest(BASE, "other data") not in digests
    for words in (
        "--seed 5",
        "--log-every 3",
        "--save-every 1",
        "--keep 9",
        "--parallel.fsdp 2",
        "--data.data-dir x",
    ):
        assert run_digest(change(words), "data") == run_digest(BASE, "data")


def test_steps_are_free_only_where_the_schedule_does_not_depend_on_them():
    assert "steps" not in BASE.free_fields
    assert "steps" in change("schedule:constant").free_fields


def test_a_difference_names_fields_and_parts():
    changed = change("--steps 200 optimizer:lion")
    told = difference(BASE, changed)
    assert told["steps"] == (BASE.steps, 200)
    assert told["optimizer"] == ("adamw", "lion")
    assert told["optimizer.learning_rate"] == (BASE.optimizer.learning_rate, Lion().learning_rate)
    assert difference(BASE, BASE) == {}
