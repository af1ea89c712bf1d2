"""Multiple choice: which continuation of a context does a language model find likeliest?

Encoding and measures are those of EleutherAI's lm-evaluation-harness, 0.4.13:

acc       share of questions where log p(choice | context) is largest for the answer
acc_norm  share where log p(choice | context) / bytes of the choice is. (The harness's own acc_norm
          divides by characters, which are bytes in ASCII; its acc_bytes is this one.)

B rows of a batch, T tokens of a row with padding.
"""

import functools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int32

from lmjax import rundir
from lmjax.data.tokenizer import Codec
from lmjax.errors import InputError
from lmjax.load import Loaded, load
from lmjax.losses import cross_entropy
from lmjax.models import TokenModel
from lmjax.step import as_computed
from lmjax.tasks import LanguageModel

SHORTEST = 64  # tokens to which the shortest rows are padded; longer ones to a power of 2 times it
POSITIONS = 2**12  # tokens of a batch; of their logits 0.8 GB for GPT-2's vocabulary
TOLD = 20  # malformed lines that are told of; of the others, how many


class Question(NamedTuple):
    """A line of the file."""

    line: int  # its number, from 1
    context: str
    choices: list[str]
    answer: int  # which of the choices


class Request(NamedTuple):
    """One choice after its context, as the model reads it."""

    ids: list[int]  # at most max_length + 1, since the last one is only predicted
    scored: int  # how many of the last ids are the choice
    cut: bool  # whether the context has lost its beginning


def evaluate_choices(run: str, file: str, step: int | None = None) -> dict[str, Any]:
    """How a run's checkpoint answers the questions of a file, on the first device.

    Args:
      run: the run directory of a language model.
      file: JSON lines, {"context": str, "choices": [str, ...], "answer": int}. A choice goes on
        right where the context ends. Spaces at the end of a context are encoded with the choice,
        but are none of its bytes.
      step: of the checkpoint; None = the newest.

    Raises InputError, which names each line that is malformed or too long for the model.
    """
    questions = read_questions(file)
    loaded = load(run, step)
    model, codec = model_of(run, loaded), codec_of(run)
    requests = make_requests(file, questions, codec, model.max_length)
    params = as_computed(loaded.experiment, loaded.params)
    variables = {"params": params, **loaded.state.model_state}
    flat = [request for of_one in requests for request in of_one]
    scores = iter(log_likelihoods(model, variables, flat))
    answered = [judge(each, [next(scores) for _ in each.choices]) for each in questions]
    count = len(questions)
    found = {name: sum(x[name] for x in answered) / count for name in ("acc", "acc_norm")}
    return {
        "run": run,
        "step": loaded.step,
        "file": file,
        "questions": count,
        "chance": sum(1 / len(each.choices) for each in questions) / count,
        **found,
        **{f"{k}_stderr": math.sqrt(p * (1 - p) / count) for k, p in found.items()},
        "cut": sum(any(request.cut for request in of_one) for of_one in requests),
        "empty": sum(not each.context.rstrip() for each in questions),
        "empty_is": "first token" if codec.end_of_text is None else "end of text",
        "answers": answered,
    }


def model_of(run: str, loaded: Loaded) -> TokenModel:
    """The model of a run; raises InputError where it is none of language."""
    task = loaded.experiment.task
    if not isinstance(task, LanguageModel):
        raise InputError(f"{run} holds a {task.label}, which reads no text")
    return task.model


def codec_of(run: str) -> Codec:
    """The vocabulary that a run has kept; raises InputError where there is none."""
    path = rundir.named(run)
    codec = rundir.recorded_codec(path, rundir.read_config(path))
    if codec is None:
        raise InputError(f"{run} was trained on token ids of which nobody says what they stand for")
    return codec


def read_questions(file: str) -> list[Question]:
    """The questions of a file; lines of nothing but spaces are passed over. Raises InputError."""
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise InputError(f"--choices {file}: cannot be read ({error.strerror})") from None
    questions, wrong = [], []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            questions.append(read_question(number, line))
        except ValueError as error:
            wrong.append((number, str(error)))
    refuse(file, wrong)
    if not questions:
        raise InputError(f"--choices {file}: holds no question")
    return questions


def refuse(file: str, wrong: Sequence[tuple[int, str]]) -> None:
    """Raise InputError where lines (number, what is wrong) are malformed."""
    if wrong:
        told = [f"{file}:{number}: {what}" for number, what in wrong[:TOLD]]
        more = [f"and {len(wrong) - TOLD} more lines"] if len(wrong) > TOLD else []
        raise InputError("; ".join(told + more))


def read_question(number: int, line: bytes) -> Question:
    """The question in a line; raises ValueError, which says what is wrong with it."""
    try:
        found = json.loads(line.decode())
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("not an object {...}")
    if missing := [name for name in ("context", "choices", "answer") if name not in found]:
        raise ValueError(f"no field {', '.join(missing)}")
    context, choices, answer = found["context"], found["choices"], found["answer"]
    if not _is_text(context):
        raise ValueError(f"context = {context!r}: must be a text")
    if not isinstance(choices, list) or len(choices) < 2 or not all(map(_is_text, choices)):
        raise ValueError(f"choices = {choices!r}: must be a list of at least 2 texts")
    if "" in choices:
        raise ValueError(f"choices[{choices.index('')}] = '': must not be empty")
    whole = isinstance(answer, int) and not isinstance(answer, bool)
    if not whole or not 0 <= answer < len(choices):
        allowed = f"must be a whole number from 0 to {len(choices) - 1}"
        raise ValueError(f"answer = {answer!r}: {allowed}")
    return Question(number, context, choices, answer)


def _is_text(value: Any) -> bool:
    """Whether it is a string that has bytes: JSON can write halves of a character."""
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value


def make_requests(
    file: str, questions: Sequence[Question], codec: Codec, max_length: int
) -> list[list[Request]]:
    """The choices of each question, encoded; raises InputError for those that cannot be scored."""
    requests, wrong = [], []
    for each in questions:
        requests.append([])
        for number, choice in enumerate(each.choices):
            before, after = split(codec, each.context, choice)
            if not after:
                wrong.append((each.line, f"choices[{number}] adds no token to what is before it"))
            elif len(after) > max_length:
                told = f"choices[{number}] has {len(after)} tokens"
                wrong.append((each.line, f"{told}, more than the model's {max_length} positions"))
            ids = (before + after)[-(max_length + 1) :]
            cut = len(ids) < len(before) + len(after)
            requests[-1].append(Request(ids, len(after), cut))
    refuse(file, wrong)
    return requests


def split(codec: Codec, context: str, choice: str) -> tuple[list[int], list[int]]:
    """The ids that are read, and those that are scored, by the harness's rules.

    Spaces at the end of the context go to the choice, since they are part of its first token. Both
    are encoded as one, and the choice is what lies beyond as many ids as the context has alone.
    An empty context is the end of the text before; where the vocabulary has no such id, the
    choice's own first id is read and not scored.
    """
    whole = codec.encode(context + choice).tolist()
    before = codec.encode(context.rstrip()).tolist()
    if before:
        return before, whole[len(before) :]
    return (whole[:1], whole[1:]) if codec.end_of_text is None else ([codec.end_of_text], whole)


def log_likelihoods(
    model: TokenModel, variables: Any, requests: Sequence[Request], positions: int = POSITIONS
) -> list[float]:
    """log p(choice | context) of each request, in nats.

    Rows are padded at their end, where nothing before them looks, to one of a few lengths, and a
    batch has about `positions` tokens: one program is compiled for each length.
    """
    found = [0.0] * len(requests)
    for length, numbers in by_length(requests, model.max_length):
        rows = min(max(1, positions // length), len(numbers))
        for first in range(0, len(numbers), rows):
            chosen = numbers[first : first + rows]
            batch = _padded([requests[number] for number in chosen], rows, length)
            scores = _score(model, variables, *batch)[: len(chosen)].tolist()
            for number, score in zip(chosen, scores, strict=True):
                found[number] = score
    return found


def by_length(requests: Sequence[Request], max_length: int) -> Iterator[tuple[int, list[int]]]:
    """(padded length, numbers of the requests that fit into it and into no shorter one)."""
    length, left = min(SHORTEST, max_length), list(range(len(requests)))
    while left:
        fit = [number for number in left if len(requests[number].ids) - 1 <= length]
        if fit:
            yield length, fit
        left = [number for number in left if len(requests[number].ids) - 1 > length]
        length = min(2 * length, max_length)


def _padded(
    requests: Sequence[Request], rows: int, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tokens, targets, weights), filled up with zeros; only a choice's own ids have weight 1."""
    tokens, targets = np.zeros((2, rows, length), np.int32)
    weights = np.zeros((rows, length), np.float32)
    for row, request in enumerate(requests):
        size = len(request.ids) - 1
        tokens[row, :size], targets[row, :size] = request.ids[:-1], request.ids[1:]
        weights[row, size - request.scored : size] = 1
    return tokens, targets, weights


@functools.partial(jax.jit, static_argnames="model")
def _score(
    model: TokenModel,
    variables: Any,
    tokens: Int32[Array, "B T"],
    targets: Int32[Array, "B T"],
    weights: Float[Array, "B T"],
) -> Float[Array, "B"]:
    logits = model.build().apply(variables, tokens, train=False)
    return -jax.vmap(cross_entropy)(logits, targets, weights).total


def judge(question: Question, scores: Sequence[float]) -> dict[str, Any]:
    """What is told of one question: scores, and whether the largest is the answer's (0 or 1)."""
    sizes = [len(choice.encode()) for choice in question.choices]
    per_byte = [score / size for score, size in zip(scores, sizes, strict=True)]
    return {
        "line": question.line,
        "answer": question.answer,
        "log_likelihoods": list(scores),
        "per_byte": per_byte,
        "acc": int(np.argmax(scores) == question.answer),
        "acc_norm": int(np.argmax(per_byte) == question.answer),
    }


def to_text(found: dict[str, Any]) -> str:
    """What evaluate_choices returns, for a reader."""
    where = f"{found['run']} at step {found['step']}, on {found['file']}"
    lines = [f"{where}: {found['questions']} questions, chance {found['chance']:.4f}"]
    for name in ("acc", "acc_norm"):
        lines.append(f"{name:16s}{found[name]:.4f} +- {found[f'{name}_stderr']:.4f}")
    if found["cut"]:
        lines.append(f"{found['cut']} contexts were cut from the left to fit into the model")
    if found["empty"]:
        read = {
            "end of text": "the end-of-text token was read in its place",
            "first token": "the first token of each choice was read in its place, and not scored",
        }[found["empty_is"]]
        lines.append(f"{found['empty']} contexts were empty: {read}")
    return "\n".join(lines)
