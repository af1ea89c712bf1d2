"""What is compared: variants of one experiment, each made by override words.

    optimizer:muon                     another part, from its own defaults
    "optimizer:muon --optimizer.momentum 0.9"   any words, as one
    task.model.depth=2,4,8             one variant for each value of a field
    "long: schedule:wsd"               with a label of its own

An optimizer begins at the defaults of its dataclass, and what belongs to no single optimizer (the
fields of `Optimizer` itself, as clip_norm, and the auxiliary of matrix methods) is the
experiment's. The experiment's own optimizer keeps all of the experiment's settings: the one that
somebody has already tuned is never made weaker than it is. That favours it, so a row of the
report's fairness names what it has beyond its defaults. Weight decay stays each one's own, since it
is multiplied by a rate of its own.
"""

import collections
import dataclasses
import re
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from lmjax import overrides
from lmjax.errors import InputError
from lmjax.experiment import Experiment
from lmjax.optim import Optimizer
from lmjax.optim.recipe import MatrixOptimizer, Rule
from lmjax.overrides import Parse
from lmjax.parts import choices, field_types, leaves, replace, sockets, swap
from lmjax.record import difference, to_record

TUNED = "optimizer.learning_rate"  # the field that every variant is tuned over
LABELLED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._+=-]*): +(.*)")
VALUES = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)=(.*)")
UNSAFE = re.compile(r"[^A-Za-z0-9._+=-]+")  # in a label, which names a directory
LONGEST = 60  # characters of a label


class Variant(NamedTuple):
    """One of the things compared."""

    label: str  # names it in the report and in the comparison's directory
    words: tuple[str, ...]  # the overrides of the base that make it
    experiment: Experiment


def of_optimizers(base: Experiment, names: Sequence[str], parse: Parse) -> tuple[Variant, ...]:
    """A variant for each optimizer; raises InputError."""
    known = choices(Optimizer)
    for name in names:
        if name not in known:
            swap(base, "optimizer", name)  # raises, naming the nearest
    return checked(base, [_made(base, name, [f"optimizer:{name}"], parse) for name in names])


def of_axis(base: Experiment, items: Sequence[str], parse: Parse) -> tuple[Variant, ...]:
    """The variants that the words after --axis name; raises InputError."""
    found = []
    for item in items:
        labelled = LABELLED.fullmatch(item)
        values = VALUES.fullmatch(item)
        if labelled:
            found.append(_made(base, labelled[1], _split(labelled[2]), parse))
        elif values:
            found += _of_values(base, values[1], values[2].split(","), parse)
        else:
            found.append(_made(base, "", _split(item), parse))
    return checked(base, found)


def checked(base: Experiment, variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """The variants, if they can be told apart; raises InputError."""
    labels = collections.Counter(variant.label for variant in variants)
    twice = [label for label, count in labels.items() if count > 1]
    if twice:
        made = {repr(decides(v.experiment)) for v in variants if v.label == twice[0]}
        told = "is given twice" if len(made) == 1 else "is the name of two that differ"
        raise InputError(f"variant {twice[0]!r} {told}; name them, as in 'mine: WORDS'")
    if len(variants) < 2:
        raise InputError(f"a comparison needs 2 variants or more, and has {len(variants)}")
    seen: dict[str, str] = {}
    for variant in variants:
        if variant.experiment.seed != base.seed:
            raise InputError(f"{variant.label}: seed: every variant is run with all of --seeds")
        told = repr(decides(variant.experiment))
        if told in seen:
            raise InputError(
                f"variants {seen[told]!r} and {variant.label!r} differ in nothing that decides "
                "a number"
            )
        seen[told] = variant.label
    return tuple(variants)


def decides(experiment: Experiment) -> dict[str, Any]:
    """Of an experiment's record, all that decides a number of its cells.

    A run may be prolonged under some schedules; a cell ends where all do.
    """
    return {**to_record(experiment, free=False), "steps": experiment.steps}


def _split(text: str) -> list[str]:
    """Words as a shell splits them."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"--axis {text!r}: {error}") from None


def _of_values(base: Experiment, name: str, values: Sequence[str], parse: Parse) -> list[Variant]:
    """A variant for each value of a field, or for each alternative of a part."""
    path = name.replace("-", "_")
    if path in sockets(base):
        return [_made(base, value, [f"{name}:{value}"], parse) for value in values]
    if path not in leaves(base):
        raise overrides.unknown_option(overrides.to_flag(path), path, base)
    last = path.rpartition(".")[2]
    flag = overrides.to_flag(path)
    return [_made(base, f"{last}={value}", [flag, value], parse) for value in values]


def _made(base: Experiment, label: str, words: Sequence[str], parse: Parse) -> Variant:
    """The variant that some words make; the label is made of them where there is none."""
    if not words:
        raise InputError(f"--axis: no words in {label!r}")
    swaps, flags = overrides.split(words, base)
    if any(flag.replace("-", "_") == f"__{TUNED}" for flag, _ in flags):
        raise InputError(f"{overrides.to_flag(TUNED)} is tuned for each variant, so it is no axis")
    started, rest = base, list(words)
    for word in swaps:
        path, _, name = word.partition(":")
        if path == "optimizer":
            started = with_optimizer(started, name)
            rest.remove(word)
    experiment = overrides.apply(started, rest, parse)
    made = shortest(base, experiment, parse)
    label = label or _label(swaps, flags)
    return Variant(UNSAFE.sub("-", label)[:LONGEST], tuple(made), experiment)


def shortest(base: Experiment, experiment: Experiment, parse: Parse) -> list[str]:
    """The overrides that make an experiment of the base, without swaps that change nothing."""
    words = overrides.to_words(base, experiment)
    for word in [word for word in words if not word.startswith("--") and ":" in word]:
        fewer = [other for other in words if other != word]
        try:
            words = fewer if overrides.apply(base, fewer, parse) == experiment else words
        except InputError:  # a field of what the word brings
            continue
    return words


def with_optimizer(base: Experiment, name: str) -> Experiment:
    """The experiment with another optimizer, which takes over what belongs to no single one."""
    if name == base.optimizer.label:
        return base
    changed = swap(base, "optimizer", name)
    shared = field_types(Optimizer).keys() - field_types(Rule).keys()
    kept = {field: getattr(base.optimizer, field) for field in shared}
    theirs, ours = base.optimizer, changed.optimizer
    if isinstance(theirs, MatrixOptimizer) and isinstance(ours, MatrixOptimizer):
        kept["auxiliary"] = theirs.auxiliary
    return replace(changed, "optimizer", dataclasses.replace(ours, **kept))


def departures(optimizer: Optimizer) -> dict[str, tuple[Any, Any]]:
    """Dotted field -> (default of its class, value) where they differ; not of the rate, tuned."""
    found = difference(type(optimizer)(), optimizer)
    return {path: each for path, each in found.items() if f"optimizer.{path}" != TUNED}


def _label(swaps: Sequence[str], flags: Sequence[tuple[str, list[str]]]) -> str:
    """muon, depth=4, muon+momentum=0.9."""
    named = [word.partition(":")[2] for word in swaps]
    for flag, values in flags:
        name = flag.removeprefix("--").rpartition(".")[2].replace("-", "_")
        named.append(f"{name}={'-'.join(values)}")
    return "+".join(named)
