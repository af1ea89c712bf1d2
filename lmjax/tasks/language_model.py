"""Next-token prediction."""

import dataclasses
import math
import shlex
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from lmjax.data import Batch, Dataset
from lmjax.data.tokenizer import ByteCodec
from lmjax.data.tokens import TokenWindows
from lmjax.errors import FieldError, InputError, check_integer
from lmjax.generate import Sampling, generate
from lmjax.metrics import Mean, Metrics
from lmjax.models import GPT, TokenModel
from lmjax.tasks import ngram
from lmjax.tasks.base import Task, check_shape

COUNTED = 2**25  # bytes of training text that the baselines count, in some seconds
LARGEST_EXPONENT = 709.0  # of e, in float64


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModel(Task):
    """Cross-entropy of the next token, in nats; judged by bits per byte on the held-out text.

    Where nobody says which bytes the ids stand for, it is judged by the loss.
    """

    label: ClassVar[str] = "language-model"
    unit: ClassVar[str] = "tokens"
    headline: ClassVar[str] = "bits_per_byte"
    batch_axes: ClassVar[tuple[str, ...]] = ("batch", "length")

    model: TokenModel = GPT()
    showcase_length: int = 400  # tokens of text that a finished run writes; 0 = none

    def validate(self) -> None:
        check_integer("showcase_length", self.showcase_length, least=0)

    def check(self, dataset: Dataset) -> None:
        for part in _windows(dataset):
            check_shape(
                "task.model.vocab_size",
                self.model.vocab_size,
                part.vocab_size,
                "the number of different tokens",
            )

    def check_batch(self, batch: Batch) -> None:
        length, most = batch["inputs"].shape[1], self.model.max_length
        if length > most:
            raise FieldError(
                "data.sequence_length", length, f"must be at most task.model.max_length {most}"
            )

    def extras(self, batch: Batch) -> dict[str, Any]:
        return {name: batch[name] for name in ("segments", "positions") if name in batch}

    def metrics(self, loss: Mean, batch: Batch) -> Metrics:
        if "token_bytes" not in batch:
            return {}
        size = jnp.sum(batch["token_bytes"] * batch["weights"])
        return {"bits_per_byte": Mean(loss.total / math.log(2), size)}

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """Perplexity per token: e to the power of all nats over all tokens."""
        return {"perplexity": math.exp(min(means["loss"], LARGEST_EXPONENT))}

    def headline_for(self, dataset: Dataset) -> str:
        return "loss" if _windows(dataset)[0].codec is None else self.headline

    def baselines(self, dataset: Dataset) -> dict[str, float]:
        """Byte n-grams, where tokens are bytes of one text of at most `COUNTED`."""
        parts = _windows(dataset)
        if len(parts) > 1 or not isinstance(parts[0].codec, ByteCodec):
            return {}
        train, held_out = parts[0].train, parts[0].validation
        if parts[0].config.packing or len(train) > COUNTED:
            return {}
        text = held_out.read(0, min(len(held_out), parts[0].evaluated + 1))
        return ngram.bits_per_byte(_as_bytes(train.read(0, len(train))), _as_bytes(text))

    def commands(self, run: str) -> dict[str, str]:
        return {"sample": f'uv run lmjax sample {shlex.quote(run)} --prompt "The "'}

    def showcase(self, params: Any, dataset: Dataset, key: PRNGKeyArray) -> str:
        part = _windows(dataset)[0]
        cache = self.model.init_cache(1, 1, jnp.float32)
        if part.codec is None or not self.showcase_length or cache is None:
            return ""
        prompt = part.validation.read(0, 32).tolist()
        drawn = generate(
            self.model,
            params,
            [prompt],
            self.showcase_length,
            key,
            Sampling(),
            part.vocab_size,
        )
        return part.codec.decode(prompt + drawn[0].tolist()).decode(errors="replace")


def _windows(dataset: Dataset) -> list[TokenWindows]:
    """The sets of tokens that a data set consists of; raises InputError for one of another kind."""
    found = [part for part in dataset.members if isinstance(part, TokenWindows)]
    if len(found) < len(dataset.members):
        raise InputError(f"task language-model needs tokens, but {dataset.name!r} has none")
    return found


def _as_bytes(tokens: np.ndarray) -> np.ndarray:
    return tokens.astype(np.uint8)
