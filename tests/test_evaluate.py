"""`lmjax eval`: a checkpoint on held-out data, equal to what the run logged."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import evaluate, train
from lmjax.data import BPE, Bytes, Examples, Tokens
from lmjax.data.bpe import BPECodec
from lmjax.errors import InputError
from lmjax.generate import Sampling
from lmjax.load import load
from lmjax.models import SimpleFCN
from lmjax.parts import replace
from lmjax.pretrained.export import export
from lmjax.sample import sample
from lmjax.tasks import Classification


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def logged(step: int) -> dict:
    """What the run in `run` logged of its held-out split at a step."""
    entries = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    (entry,) = [e for e in entries if (e["kind"], e["step"]) == ("validation", step)]
    return {name: value for name, value in entry.items() if name not in ("kind", "step")}


@pytest.mark.bits
def test_it_equals_what_the_run_logged_to_the_bit(tiny_gpt):
    experiment = replace(tiny_gpt, "save_every", 10)
    result = train.run(experiment, "run", quiet=True)
    newest, first = evaluate.evaluate_run("run"), evaluate.evaluate_run("run", 10)
    assert newest["step"] == 20
    assert newest["validation"] == logged(20) == result["validation"]
    assert newest["baselines"] == result["baselines"]
    assert first["validation"] == logged(10)
    assert first["validation"] != logged(20)  # the control: another step, other bits


@pytest.mark.bits
def test_an_averaging_optimizer_is_evaluated_at_its_average(tiny_mlp):
    averaged = replace(tiny_mlp, "optimizer.ema_decay", 0.9)
    train.run(averaged, "run", quiet=True)
    assert evaluate.evaluate_run("run")["validation"] == logged(12)
    plain = train.run(tiny_mlp, "plain", quiet=True)
    assert plain["validation"] != logged(12)


def test_perplexity_is_of_all_tokens_together(tiny_gpt):
    experiment = replace(tiny_gpt, "steps", 2)
    result = train.run(experiment, "run", quiet=True)
    loaded, dataset = load("run"), experiment.data.load()
    losses = [
        experiment.task.outcome(
            {"params": loaded.params}, jax.tree.map(jnp.asarray, batch), None
        ).loss
        for batch in dataset.evaluation(experiment.batch_size)
    ]
    nats, tokens = (np.array([float(x[k]) for x in losses]) for k in (0, 1))
    assert tokens.sum() == dataset.evaluated
    found = result["validation"]["perplexity"]
    assert found == pytest.approx(np.exp(nats.sum() / tokens.sum()), rel=1e-5)
    assert abs(found - np.exp(nats / tokens).mean()) > 1e-4 * found  # the control: a mean of them
    assert experiment.task.derived({"loss": 1e4})["perplexity"] < float("inf")


def test_other_data_is_evaluated_when_it_is_named_and_refused_when_it_has_changed(tiny_gpt):
    Path("text.txt").write_text("one text " * 200)
    own = Tokens(source="text:text.txt", sequence_length=16, validation_fraction=0.2)
    result = train.run(replace(tiny_gpt, "data", own), "run", quiet=True)
    Path("other.txt").write_text("something else entirely; " * 200)
    other = replace(own, "source", "text:other.txt")
    found = evaluate.evaluate_run("run", data=other)
    assert found["data"] == "text:other.txt"
    assert found["validation"]["loss"] > result["validation"]["loss"]
    shorter = evaluate.evaluate_run("run", data=replace(own, "sequence_length", 8))
    assert shorter["validation"] != result["validation"]

    Path("text.txt").write_text("two text " * 200)
    with pytest.raises(InputError, match="has changed"):
        evaluate.evaluate_run("run")
    assert evaluate.evaluate_run("run", data=own)["step"] == 20
    with pytest.raises(InputError, match="max_length 16"):
        evaluate.evaluate_run("run", data=replace(own, "sequence_length", 17))


def test_a_run_keeps_the_vocabulary_that_it_learnt(tiny_gpt):
    text = "".join(f"Line {n} of {n * n}.\n" for n in range(300))
    Path("text.txt").write_text(text)
    Path("other.txt").write_text("".join(f"Quite another {n}; text\n" for n in range(300)))
    own = Tokens(source="text:text.txt", sequence_length=16, tokenizer=BPE(vocab_size=280))
    small = replace(replace(tiny_gpt, "steps", 2), "task.model.vocab_size", 280)
    result = train.run(replace(small, "data", own), "run", quiet=True)
    held = json.loads(Path("run/config.json").read_text())
    learnt = BPECodec(Path("run/tokenizer.json").read_text(), "run")
    assert held["tokenizer"] == learnt.digest == own.load().codec.digest
    assert evaluate.evaluate_run("run")["validation"] == result["validation"]

    other = replace(own, "source", "text:other.txt")
    found = evaluate.evaluate_run("run", data=other)["validation"]
    assert other.load().codec.digest != learnt.digest
    fixed = replace(other, "tokenizer", BPE(path="run/tokenizer.json"))
    assert found == evaluate.evaluate_run("run", data=fixed)["validation"]
    Path("theirs.json").write_text(other.load().codec.description)
    for tokenizer in (Bytes(), BPE(path="theirs.json")):
        with pytest.raises(InputError, match="another vocabulary than 'text"):
            evaluate.evaluate_run("run", data=replace(other, "tokenizer", tokenizer))

    before = sample("run", ["Line"], 8, Sampling(), 0)
    Path("other.txt").rename("text.txt")
    assert sample("run", ["Line"], 8, Sampling(), 0) == before
    Path("text.txt").unlink()
    assert sample("run", ["Line"], 8, Sampling(), 0) == before
    export("run", "out")
    assert Path("out/tokenizer.json").read_text() == learnt.description

    Path("run/tokenizer.json").write_text(Path("theirs.json").read_text())
    with pytest.raises(InputError, match="not the vocabulary that the run was trained with"):
        sample("run", ["Line"], 8, Sampling(), 0)
    Path("run/tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"run/tokenizer\.json: cannot be read"):
        evaluate.evaluate_run("run", data=other)


def test_data_that_the_model_cannot_take_is_refused(tiny_mlp):
    train.run(replace(tiny_mlp, "steps", 1), "run", quiet=True)
    other = Examples(source="breast_cancer", held_out=100)
    told = "data.examples: inputs of 30 do not fit run, which was trained on inputs of 8 x 8 x 1"
    with pytest.raises(InputError, match=told):
        evaluate.evaluate_run("run", data=other)
    with pytest.raises(InputError, match=r"^data\.source = 'images:nowhere': no such folder"):
        evaluate.evaluate_run("run", data=Examples(source="images:nowhere"))
    convolution = replace(tiny_mlp, "task", Classification(model=SimpleFCN(channels=2)))
    train.run(replace(convolution, "steps", 1), "images", quiet=True)
    with pytest.raises(InputError, match="inputs of 30 do not fit images"):
        evaluate.evaluate_run("images", data=other)


def test_it_reads_well():
    found = {
        "run": "runs/a",
        "step": 20,
        "data": "python_docs",
        "validation": {"loss": 1.5, "bits_per_byte": 2.25},
        "baselines": {"bits_per_byte": {"bigram": 3.5}},
    }
    assert evaluate.to_text(found).splitlines() == [
        "runs/a at step 20, on python_docs:",
        "bits_per_byte   2.2500   beside bigram 3.5000",
        "loss            1.5000",
    ]
