"""Next-token prediction."""

import dataclasses
import math
import shlex
from typing import Any, ClassVar, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from lmjax import head_loss
from lmjax.data import Batch, Dataset
from lmjax.data.tokenizer import ByteCodec, Codec
from lmjax.data.tokens import TokenWindows
from lmjax.errors import FieldError, InputError, check_choice, check_integer, check_number
from lmjax.generate import Sampling, generate
from lmjax.metrics import Mean, Metrics
from lmjax.models import GPT, TokenModel
from lmjax.placement import note, shares
from lmjax.tasks import ngram
from lmjax.tasks.base import Outcome, Task, Variables, check_shape

CrossEntropy = Literal["auto", "plain", "chunked", "one-pass"]
PLAIN = 2**26  # logits of one device up to which auto holds them all, 256 MiB in float32
MOST_SHOWN = 10_000  # tokens of text at the end of a run
MARK = "\u25b8"  # between a prompt and what the model goes on with
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
    cross_entropy: CrossEntropy = "auto"  # plain holds all logits (lmjax/head_loss.py)
    loss_chunk: int = 4096  # tokens of a device whose logits are held at once, where not all are
    z_loss: float = 0.0  # factor of the squared log-normaliser, in training (arXiv 2204.02311)
    showcase_length: int = 400  # tokens of text that a finished run writes; 0 = none

    def validate(self) -> None:
        check_choice("cross_entropy", self.cross_entropy, get_args(CrossEntropy))
        check_integer("loss_chunk", self.loss_chunk, least=1)
        check_number("z_loss", self.z_loss, least=0)
        check_integer("showcase_length", self.showcase_length, least=0, most=MOST_SHOWN)

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
        return {name: batch[name] for name in self.model.takes if name in batch}

    def outcome(self, variables: Variables, batch: Batch, key: PRNGKeyArray | None) -> Outcome:
        """Loss and metrics of one batch; the z-loss is for training, so evaluation is without."""
        targets, weights = batch["targets"], batch["weights"]
        z_loss = 0.0 if key is None else self.z_loss
        way = self.way(targets.size)
        if way == "plain":
            logits, state = self.logits(variables, batch, key)
            sums = head_loss.of_logits(logits, targets, weights, z_loss)
        else:
            features, state = self.apply(variables, batch, key, head=False)
            sums = head_loss.of_features(features, targets, weights, way, self.loss_chunk, z_loss)
        weight = jnp.sum(weights)
        nll = Mean(sums.nll, weight)
        found = {"accuracy": Mean(sums.hits, weight), **self.metrics(nll, batch)}
        if z_loss:
            found["cross_entropy"] = nll
        return Outcome(Mean(sums.objective, weight), found, state)

    def way(self, tokens: int) -> Literal["plain", "chunked", "one-pass"]:
        """How the loss of a batch of so many tokens, on all devices together, is computed."""
        each = tokens // (shares("batch") * shares("length"))
        if self.cross_entropy != "auto":
            chosen, why = self.cross_entropy, "as asked"
        elif not self.model.separable:
            chosen, why = "plain", "the model makes logits only"
        elif shares("vocab") > 1:
            chosen, why = "plain", "logits are cut over devices"
        elif each * self.model.vocab_size <= PLAIN:
            chosen, why = "plain", "all logits are small"
        else:
            chosen, why = "one-pass", f"logits of {self.loss_chunk:,} tokens at a time"
        note("cross-entropy", f"{chosen} ({why})")
        return chosen

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
        prompt = whole_characters(part.codec, part.validation.read(0, 32).tolist())
        drawn = generate(
            self.model,
            params,
            [prompt],
            self.showcase_length,
            key,
            Sampling(),
            part.vocab_size,
        )
        given, written = (
            part.codec.decode(ids).decode(errors="replace") for ids in (prompt, drawn[0].tolist())
        )
        return (
            f"sample, held-out text up to {MARK} and the model's after it:\n{given}{MARK}{written}"
        )


def whole_characters(codec: Codec, ids: list[int]) -> list[int]:
    """The ids without those at their end that begin a UTF-8 character and do not end it."""
    for count in range(len(ids), 0, -1):
        try:
            codec.decode(ids[:count]).decode()
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                break  # not a text, however much of it is left out
        else:
            return ids[:count]
    return ids


def _windows(dataset: Dataset) -> list[TokenWindows]:
    """The sets of tokens that a data set consists of; raises InputError for one of another kind."""
    found = [part for part in dataset.members if isinstance(part, TokenWindows)]
    if len(found) < len(dataset.members):
        raise InputError(f"task language-model needs tokens, but {dataset.name!r} has none")
    return found


def _as_bytes(tokens: np.ndarray) -> np.ndarray:
    return tokens.astype(np.uint8)
