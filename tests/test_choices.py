"""Multiple choice, against lm-evaluation-harness (references/make_choices.py) and NumPy."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from lmjax import choices, cli, train
from lmjax.choices import (
    Request,
    codec_of,
    judge,
    log_likelihoods,
    make_requests,
    read_questions,
    split,
)
from lmjax.data import Tokens
from lmjax.data.bpe import BPE, BPECodec
from lmjax.data.tokenizer import ByteCodec
from lmjax.errors import InputError
from lmjax.load import load
from lmjax.models import GPT
from lmjax.parts import replace
from lmjax.pretrained.folder import Folder
from lmjax.pretrained.weights import Pretrained

REFERENCES = Path(__file__).parent / "references"
STORED = json.loads((REFERENCES / "choices.json").read_text())
GPT2 = GPT(max_length=24, width=16, depth=2, heads=4, mlp_width=24)  # of make_pretrained.py
LONG = GPT(max_length=200, width=16, depth=1, heads=2)
TOLERANCE, VISIBLE = 1e-4, 1e-2  # nats


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with jax.default_matmul_precision("highest"):
        yield


def abstract(model: GPT) -> Any:
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    shapes = jax.eval_shape(model.build().init, jax.random.key(0), tokens)["params"]
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), meta.unbox(shapes)
    )


@pytest.fixture(scope="module")
def gpt2() -> Any:
    shapes = abstract(GPT2)
    read = Pretrained(Folder(REFERENCES / "pretrained" / "gpt2"), GPT2, shapes)
    return {"params": read.params(shapes)}


def drawn(model: GPT) -> Any:
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(random.normal(scale=0.4, size=x.shape), x.dtype), abstract(model)
    )


def recomputed(model: GPT, variables: Any, request: Request) -> tuple[float, float]:
    """(log-likelihood, the same one token off), by a forward pass over this choice alone, without
    padding, in float64 from the logits on."""
    row = jnp.asarray([request.ids[:-1]], jnp.int32)
    logits = np.asarray(jax.jit(model.build().apply)(variables, row)[0], np.float64)
    highest = logits.max(-1, keepdims=True)
    logits = logits - highest - np.log(np.exp(logits - highest).sum(-1, keepdims=True))
    places = np.arange(len(logits))[len(logits) - request.scored :]
    targets = np.asarray(request.ids)[places + 1]
    return float(logits[places, targets].sum()), float(logits[places - 1, targets].sum())


def written(lines: list[Any], name: str = "q.jsonl") -> str:
    Path(name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return name


def requests_of(lines: list[Any], model: GPT) -> list[Request]:
    file = written(lines)
    found = make_requests(file, read_questions(file), ByteCodec(), model.max_length)
    return [request for of_one in found for request in of_one]


@pytest.mark.smoke
def test_it_scores_as_the_harness_and_as_numpy_does(gpt2):
    requests = requests_of(STORED["questions"], GPT2)
    stored = [x for question in STORED["questions"] for x in question["log_likelihoods"]]
    ours = log_likelihoods(GPT2, gpt2, requests)
    assert np.abs(np.subtract(ours, stored)).max() < TOLERANCE
    for number in (0, 3, 13):  # as few as will do: each is a program of its own
        plain, shifted = recomputed(GPT2, gpt2, requests[number])
        assert abs(ours[number] - plain) < TOLERANCE
        assert abs(ours[number] - shifted) > VISIBLE


def test_neither_batch_nor_padding_changes_a_score(monkeypatch):
    random, variables = np.random.default_rng(1), {"params": drawn(LONG)}
    sizes = [2, 64, 65, 66, 129, 130, 201, 7, 90]
    requests = [
        Request(random.integers(0, 256, size).tolist(), min(size - 1, 1 + size // 3), False)
        for size in sizes
    ]
    choices._score.clear_cache()
    ours = log_likelihoods(LONG, variables, requests)
    assert choices._score._cache_size() == 3  # for 64, 128 and 200 tokens
    assert log_likelihoods(LONG, variables, requests, positions=1) == pytest.approx(ours, rel=1e-5)
    turned = log_likelihoods(LONG, variables, requests[::-1])[::-1]
    assert turned == pytest.approx(ours, rel=1e-5)
    assert ours[6] == pytest.approx(recomputed(LONG, variables, requests[6])[0], rel=1e-5)
    monkeypatch.setattr(choices, "SHORTEST", 150)
    assert log_likelihoods(LONG, variables, requests) == pytest.approx(ours, rel=1e-5)
    fewer = [request._replace(scored=request.scored - 1) for request in requests]
    assert log_likelihoods(LONG, variables, fewer) != pytest.approx(ours, rel=1e-3)


def test_context_and_choice_are_cut_apart_by_the_harness_s_rules():
    codec = BPECodec(STORED["tokenizer"], "stored")
    assert len(STORED["pairs"]) > 8
    for pair in STORED["pairs"]:
        assert split(codec, pair["context"], pair["choice"]) == (pair["before"], pair["after"])
    # The control: encoded apart, a token that lies across the border would be another.
    apart = [codec.encode(pair["choice"]).tolist() == pair["after"] for pair in STORED["pairs"]]
    assert not all(apart)


def test_an_empty_context_is_the_end_of_the_text_before_or_the_first_token():
    codec = BPECodec(STORED["tokenizer"], "stored")
    for context in ("", " \n"):
        before, after = split(codec, context, "the other")
        assert before == [codec.end_of_text]
        assert codec.decode(after) == f"{context}the other".encode()
        assert split(ByteCodec(), context, "ab") == (
            list(f"{context}ab".encode()[:1]),
            list(f"{context}ab".encode()[1:]),
        )


def test_a_long_context_loses_its_beginning():
    lines = [{"context": "x" * 22 + end, "choices": ["ab", "abc"], "answer": 0} for end in "ij"]
    requests = requests_of(lines, GPT2)
    assert [request.cut for request in requests] == [False, True] * 2
    assert requests[1] == Request(list(b"x" * 21 + b"iabc"), 3, True)
    whole = {"context": "x", "choices": ["y" * 24, "z"], "answer": 0}
    assert [request.cut for request in requests_of([whole], GPT2)] == [False, False]


def test_the_likeliest_choice_in_all_or_per_byte():
    question = choices.Question(3, "", ["a", "bbbb", "éé"], 1)
    found = judge(question, [-1.0, -3.0, -3.2])
    assert found["per_byte"] == [-1.0, -0.75, -0.8]
    assert (found["acc"], found["acc_norm"], found["line"]) == (0, 1, 3)
    assert judge(question, [-4.0, -3.0, -2.0])["acc_norm"] == 0  # the control: per character too
    assert judge(question._replace(answer=2), [-4.0, -3.0, -2.0])["acc"] == 1


GOOD = {"context": "a", "choices": ["b", "c"], "answer": 1}
BAD = {
    b"\xff": "not UTF-8",
    b"{": "not JSON",
    b"[" * 100_000: "not JSON",
    b"[1]": "not an object {...}",
    b'{"context": "a", "choice": ["b", "c"]}': "no field choices, answer",
    json.dumps(GOOD | {"context": 1}).encode(): "context = 1: must be a text",
    b'{"context": "\\ud800", "choices": ["b", "c"], "answer": 1}': "context = '\\ud800': must be a",
    json.dumps(GOOD | {"choices": ["b"]}).encode(): "choices = ['b']: must be a list of at least 2",
    json.dumps(GOOD | {"choices": ["b", 1]}).encode(): "choices = ['b', 1]: must be",
    json.dumps(GOOD | {"choices": ["b", ""]}).encode(): "choices[1] = '': must not be empty",
    json.dumps(GOOD | {"answer": 2}).encode(): "answer = 2: must be a whole number from 0 to 1",
    json.dumps(GOOD | {"answer": True}).encode(): "answer = True: must be",
    json.dumps(GOOD | {"answer": "b"}).encode(): "answer = 'b': must be",
}


def test_every_malformed_line_is_named():
    good = json.dumps(GOOD).encode()
    Path("q.jsonl").write_bytes(b"\n".join([good, *BAD, b"", good]) + b"\n")
    with pytest.raises(InputError) as caught:
        read_questions("q.jsonl")
    told = str(caught.value).split("; q.jsonl:")
    assert len(told) == len(BAD)
    for number, (line, expected) in enumerate(zip(told, BAD.values(), strict=True), start=2):
        assert line.removeprefix("q.jsonl:").startswith(f"{number}: {expected}")
    assert "\n" not in str(caught.value)
    Path("q.jsonl").write_bytes(b"{\n" * 30)
    with pytest.raises(InputError, match=r"q.jsonl:20: not JSON; and 10 more lines$"):
        read_questions("q.jsonl")
    Path("q.jsonl").write_bytes(good + b"\r\n \n" + good)
    assert [question.line for question in read_questions("q.jsonl")] == [1, 3]


def test_files_and_choices_that_cannot_be_used_are_refused():
    with pytest.raises(InputError, match=r"--choices none\.jsonl: cannot be read"):
        read_questions("none.jsonl")
    Path("q.jsonl").write_text("\n")
    with pytest.raises(InputError, match=r"--choices q\.jsonl: holds no question"):
        read_questions("q.jsonl")
    long = [GOOD, {"context": "a", "choices": ["b", "c" * 25], "answer": 0}, GOOD | {"context": ""}]
    with pytest.raises(InputError) as caught:
        requests_of(long, GPT2)
    assert str(caught.value) == (
        "q.jsonl:2: choices[1] has 25 tokens, more than the model's 24 positions; "
        "q.jsonl:3: choices[0] adds no token to what is before it; "
        "q.jsonl:3: choices[1] adds no token to what is before it"
    )


@pytest.fixture
def run(tiny_gpt) -> Any:
    """A run of two steps in `run`, on a text with a learnt vocabulary."""
    Path("text.txt").write_text("one and the other then there and another one. " * 60)
    data = Tokens(source="text:text.txt", sequence_length=16, tokenizer=BPE(vocab_size=270))
    experiment = replace(replace(tiny_gpt, "data", data), "task.model.vocab_size", 270)
    train.run(replace(experiment, "steps", 2), "run", quiet=True)
    return experiment


def test_the_command_answers_with_a_run_s_checkpoint(run, capsys):
    lines = [
        {"context": "one and the", "choices": [" other", " there", " then"], "answer": 0},
        {"context": "one and the other then there and another one " * 3, "choices": [" and", "."]}
        | {"answer": 1},
        {"context": "", "choices": ["another", "one", "then", "so"], "answer": 2},
    ]
    words = ["eval", "run", "--choices", written(lines), "--json", "out.json"]
    assert cli.main(words) == 0
    told = capsys.readouterr().out.splitlines()
    found, loaded = json.loads(Path("out.json").read_text()), load("run")
    codec, model = codec_of("run"), run.task.model
    requests = make_requests("q.jsonl", read_questions("q.jsonl"), codec, 16)
    for of_one, answer in list(zip(requests, found["answers"], strict=True))[:2]:
        plain = [recomputed(model, {"params": loaded.params}, request)[0] for request in of_one]
        assert answer["log_likelihoods"] == pytest.approx(plain, abs=TOLERANCE)
        assert answer["acc"] == (np.argmax(plain) == answer["answer"])
    right = sum(answer["acc"] for answer in found["answers"]) / 3
    error = np.sqrt(right * (1 - right) / 3)
    assert (found["acc"], found["acc_stderr"]) == pytest.approx((right, error))
    assert told == [
        "run at step 2, on q.jsonl: 3 questions, chance 0.3611",
        f"acc             {found['acc']:.4f} +- {found['acc_stderr']:.4f}",
        f"acc_norm        {found['acc_norm']:.4f} +- {found['acc_norm_stderr']:.4f}",
        "1 contexts were cut from the left to fit into the model",
        "1 contexts were empty: the end-of-text token was read in its place",
    ]
    assert cli.main([*words, "--data.sequence-length", "8"]) == 2
    assert "--choices takes no further words" in capsys.readouterr().err
    Path("text.txt").write_text("something else altogether, which is another vocabulary " * 60)
    assert cli.main(words) == 0  # by the vocabulary that the run has kept
    assert capsys.readouterr().out.splitlines() == told


def test_what_is_no_language_model_is_refused(tiny_mlp, capsys):
    train.run(replace(tiny_mlp, "steps", 1), "run", quiet=True)
    assert cli.main(["eval", "run", "--choices", written([GOOD])]) == 2
    assert capsys.readouterr().err == "lmjax: run holds a classification, which reads no text\n"
