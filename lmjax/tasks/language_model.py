"""Next-token prediction on byte tokens."""

import dataclasses
import math
import shlex
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer, PRNGKeyArray

from lmjax.data import Dataset
from lmjax.data.tokens import TokenWindows
from lmjax.errors import FieldError, InputError
from lmjax.metrics import Mean, Metrics
from lmjax.models import GPT, TokenModel
from lmjax.tasks import ngram
from lmjax.tasks.base import Task, check_shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModel(Task):
    """Cross-entropy of the next token, in nats; judged by bits per byte on the held-out text."""

    label: ClassVar[str] = "language-model"
    unit: ClassVar[str] = "tokens"
    headline: ClassVar[str] = "bits_per_byte"

    model: TokenModel = GPT()
    showcase_length: int = 400  # bytes of text that a finished run writes; 0 = none

    def check(self, dataset: Dataset) -> None:
        if not isinstance(dataset, TokenWindows):
            raise InputError(f"task language-model needs tokens, but {dataset.name!r} has none")
        check_shape(
            "task.model.vocab_size",
            self.model.vocab_size,
            dataset.vocab_size,
            "the number of different tokens",
        )
        if dataset.length > self.model.max_length:
            raise FieldError(
                "data.sequence_length",
                dataset.length,
                f"must be at most task.model.max_length {self.model.max_length}",
            )

    def metrics(self, loss: Mean) -> Metrics:
        return {"bits_per_byte": Mean(loss.total / math.log(2), loss.weight)}

    def baselines(self, dataset: Dataset) -> dict[str, float]:
        assert isinstance(dataset, TokenWindows)
        return ngram.bits_per_byte(dataset.train, dataset.validation)

    def commands(self, run: str) -> dict[str, str]:
        return {"sample": f'uv run lmjax sample {shlex.quote(run)} --prompt "The "'}

    def showcase(self, params: Any, dataset: Dataset, key: PRNGKeyArray) -> str:
        assert isinstance(dataset, TokenWindows)
        if not self.showcase_length:
            return ""
        prompt = bytes(dataset.validation[:32])
        text = self.generate(params, prompt, self.showcase_length, key, temperature=0.8)
        return text.decode(errors="replace")

    def generate(
        self, params: Any, prompt: bytes, length: int, key: PRNGKeyArray, temperature: float
    ) -> bytes:
        """The prompt and `length` bytes drawn after it; temperature 0 takes the likeliest byte.

        The model sees the last max_length bytes. One compiled loop, no cache of keys and values.
        """
        if not prompt:
            raise InputError("the prompt is empty; give at least one byte to continue")
        size = self.model.max_length
        known = np.frombuffer(prompt, np.uint8)[-size:]
        window = np.zeros(size, np.int32)
        window[: len(known)] = known
        drawn = _draw(
            self,
            params,
            jnp.asarray(window),
            jnp.int32(len(known)),
            key,
            jnp.float32(temperature),
            length,
        )
        return prompt + bytes(np.asarray(drawn).astype(np.uint8))


def _draw(
    task: LanguageModel,
    params: Any,
    window: Integer[Array, "T"],
    known: Integer[Array, ""],
    key: PRNGKeyArray,
    temperature: Array,
    length: int,
) -> Integer[Array, "length"]:
    module = task.module()

    @jax.jit
    def run(params: Any, window: Array, known: Array, key: Array, temperature: Array) -> Array:
        def step(carry: tuple[Array, Array], step_key: Array) -> tuple[tuple[Array, Array], Array]:
            window, known = carry
            logits = module.apply({"params": params}, window[None], train=False)[0, known - 1]
            logits = logits[: TokenWindows.vocab_size].astype(jnp.float32)
            drawn = jax.random.categorical(step_key, logits / jnp.maximum(temperature, 1e-6))
            token = jnp.where(temperature > 0, drawn, jnp.argmax(logits)).astype(jnp.int32)
            full = known == window.shape[0]
            window = jnp.where(full, jnp.roll(window, -1), window)
            known = jnp.where(full, known, known + 1)
            return (window.at[known - 1].set(token), known), token

        return jax.lax.scan(step, (window, known), jax.random.split(key, length))[1]

    return run(params, window, known, key, temperature)
