"""Drawing tokens, against transformers and against the whole forward pass token by token.

The text that transformers' Llama writes is in test_llama.py.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from lmjax.data import Tokens
from lmjax.data.stream import Stream
from lmjax.data.tokenizer import ByteCodec
from lmjax.data.tokens import Corpus, TokenWindows
from lmjax.errors import FieldError, InputError
from lmjax.generate import Sampling, generate, likeliest, narrowed, pick
from lmjax.models import GPT, TokenModel
from lmjax.tasks import LanguageModel
from lmjax.tasks.language_model import MARK, whole_characters

GREEDY = Sampling(temperature=0.0)
# A head of its own and no biases: else the likeliest text soon repeats one token.
MODEL = GPT(vocab_size=61, max_length=12, depth=2, width=16, heads=2, tied=False, biases=False)
KEY = jax.random.key(0)


def drawn_weights(model: TokenModel) -> Any:
    """Larger than a fresh model's, so that the likeliest token depends on the whole text."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.build().init, KEY, jnp.zeros((1, 4), jnp.int32))
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(scale=0.6, size=x.shape), x.dtype),
        meta.unbox(shapes["params"]),
    )


@pytest.fixture(scope="module")
def weights() -> Any:
    return drawn_weights(MODEL)


def write(weights: Any, prompts: Any, length: int, sampling: Any = GREEDY, key: Any = KEY) -> Any:
    return generate(MODEL, weights, prompts, length, key, sampling, 61).tolist()


def recomputed(weights: Any, prompt: list[int], length: int, kept: int) -> list[int]:
    """The likeliest tokens, each by a forward pass over the text so far, cut back to `kept`."""
    apply, context, drawn = jax.jit(MODEL.build().apply), list(prompt), []
    for _ in range(length):
        if len(context) > MODEL.max_length:
            context = context[-kept:]
        row = jnp.asarray([context + [0] * (MODEL.max_length - len(context))])
        context.append(int(apply({"params": weights}, row)[0, len(context) - 1].argmax()))
        drawn.append(context[-1])
    return drawn


@pytest.mark.smoke
def test_a_batch_of_unequal_prompts_equals_the_whole_forward_pass(weights: Any) -> None:
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6], [5]]
    drawn = write(weights, prompts, 8)
    assert drawn == [recomputed(weights, prompt, 8, kept=6) for prompt in prompts]
    assert drawn != [recomputed(weights, prompt[::-1], 8, kept=6) for prompt in prompts]


@pytest.mark.parametrize("prompt", [[3, 1, 4], list(range(12)), list(range(30))])
def test_a_text_that_outgrows_the_model_goes_on_from_its_half(
    weights: Any, prompt: list[int]
) -> None:
    drawn = write(weights, [prompt], 31)[0]
    assert len(set(drawn)) > 8
    assert drawn == recomputed(weights, prompt[-12:], 31, kept=6)
    assert drawn != recomputed(weights, prompt[-12:], 31, kept=11)


def test_draws_follow_the_seed_and_the_place_in_the_batch_alone(weights: Any) -> None:
    sampling = Sampling(temperature=1.0, top_k=20)
    alone = write(weights, [[3, 1, 4]], 8, sampling)[0]
    twice = write(weights, [[3, 1, 4], [3, 1, 4]], 8, sampling)
    assert twice[0] == alone != twice[1]
    assert write(weights, [[3, 1, 4], [2, 7]], 8, sampling)[0] == alone
    assert write(weights, [[3, 1, 4]], 8, sampling, jax.random.key(1))[0] != alone
    # The first stretch of a longer text has the draws of the shorter one.
    assert write(weights, [[3, 1, 4]], 24, sampling)[0][:8] == alone


def test_the_likeliest_is_the_first_of_the_largest() -> None:
    random = np.random.default_rng(0)
    logits = random.integers(0, 9, size=(50, 30)).astype(np.float32)  # with ties
    logits[0], logits[1, 3:], logits[2, :9] = -np.inf, -np.inf, np.inf
    assert np.array_equal(likeliest(jnp.asarray(logits)), logits.argmax(-1))
    last = logits.shape[-1] - 1 - logits[:, ::-1].argmax(-1)
    assert not np.array_equal(likeliest(jnp.asarray(logits)), last)
    logits[5, 7] = np.nan  # an id all the same, so that a broken model is told by its text
    assert likeliest(jnp.asarray(logits)).max() < 30


def test_only_ids_of_the_tokenizer_are_drawn(weights: Any) -> None:
    drawn = generate(MODEL, weights, [[1]] * 8, 11, KEY, Sampling(temperature=5.0), 7)
    assert drawn.max() == 6
    assert np.max(write(weights, [[1]] * 8, 11, Sampling(temperature=5.0))) > 6


def test_narrowed_logits_equal_those_of_transformers() -> None:
    with np.load(Path(__file__).parent / "references" / "sampling.npz") as file:
        logits, settings, expected = (file[name] for name in ("logits", "settings", "narrowed"))
    assert len(settings) > 5
    for (temperature, top_k, top_p), theirs in zip(settings.tolist(), expected, strict=True):
        sampling = Sampling(temperature=temperature, top_k=int(top_k), top_p=top_p)
        ours = np.asarray(narrowed(jnp.asarray(logits), sampling))
        assert np.array_equal(np.isfinite(ours), np.isfinite(theirs)), sampling
        assert np.allclose(ours, theirs, rtol=1e-6, atol=0)
        other = dataclasses.replace(sampling, temperature=temperature + 0.1)
        assert not np.allclose(narrowed(jnp.asarray(logits), other), theirs, rtol=1e-6, atol=0)


def test_tokens_are_drawn_with_their_probabilities() -> None:
    logits, draws = np.array([0.0, 1.0, -1.0, 2.0, 0.5], np.float32), 20_000
    sampling = Sampling(temperature=1.5, top_k=4)
    keys = jax.random.split(KEY, draws)
    drawn = pick(jnp.broadcast_to(jnp.asarray(logits), (draws, 5)), keys, sampling)
    share = np.bincount(np.asarray(drawn), minlength=5) / draws

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.where(logits > -1, np.exp(x), 0) / np.exp(x[logits > -1]).sum()

    expected = softmax(logits / 1.5)
    sigma = np.sqrt(expected * (1 - expected) / draws)
    assert share[2] == 0
    assert np.all(np.abs(share - expected) <= 4 * sigma)
    assert np.any(np.abs(share - softmax(logits)) > 4 * sigma)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"temperature": -1.0}, "temperature = -1.0: must be >= 0"),
        ({"top_k": -1}, "top_k = -1: must be >= 0"),
        ({"top_p": 0.0}, "top_p = 0.0: must be > 0 and <= 1"),
        ({"top_p": 1.5}, "top_p = 1.5: must be > 0 and <= 1"),
    ],
)
def test_bad_settings_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(FieldError, match=told):
        Sampling(**fields).validate()


def test_what_cannot_be_continued_is_refused(weights: Any) -> None:
    with pytest.raises(InputError, match="a prompt is empty"):
        write(weights, [[1, 2], []], 3)
    with pytest.raises(InputError, match="keeps no cache"):
        generate(TokenModel(), weights, [[1]], 3, KEY, GREEDY, 61)


def test_a_finished_run_shows_as_many_tokens_as_it_was_asked_for() -> None:
    model = GPT(max_length=40, depth=1, width=16, heads=2)
    params = drawn_weights(model)
    text = np.frombuffer(b"Now is the winter of our discontent. " * 9, np.uint8)
    streams = Stream("training", [text[:200]]), Stream("validation", [text[200:]])
    corpus = Corpus(*streams, 256, ByteCodec(), "no digest")
    windows = TokenWindows(Tokens(sequence_length=32), corpus)
    prompt = text[200:232].tobytes().decode()
    for length in (0, 30):
        task = LanguageModel(model=model, showcase_length=length)
        shown = task.showcase(params, windows, KEY)
        heading, _, both = shown.partition("\n")
        assert ("held-out text up to" in heading) == (length > 0)
        given, _, written = both.partition(MARK)
        assert given == (prompt if length else "")
        assert bool(written) == (length > 0)
    snow = whole_characters(ByteCodec(), [*"a\u2603\u2603".encode()][:6])
    assert bytes(snow).decode() == "a\u2603"
    assert whole_characters(ByteCodec(), [65, 255, 65]) == [65, 255, 65]  # no text at all
    assert LanguageModel(model=TokenModel()).showcase(params, windows, KEY) == ""
    with pytest.raises(FieldError, match="showcase_length = -1"):
        LanguageModel(showcase_length=-1).validate()
