"""What gpt_gpu.py trains: two models, what its sweep may change about them, and their tokens."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks.cpu_peers import Rows
from experiments.benchmarks.gpt_sweep import Move
from lmjax.data import Data
from lmjax.experiment import Experiment
from lmjax.models import GPT
from lmjax.models.decoder import Remat
from lmjax.models.kernels import Wanted
from lmjax.optim import AdamW, Constant
from lmjax.tasks import LanguageModel
from lmjax.tasks.language_model import CrossEntropy

BATCHES = 20  # different ones, in turn
LOSSES = 20  # of the first steps
SKEW = 2.7  # an id of rank r is drawn as 1 / (r + SKEW): Mandelbrot's form of Zipf's law
B2, DECAY = 0.95, 0.1  # of AdamW, GPT-2's


class Point(NamedTuple):
    """What a sweep may change: nothing here changes what is computed, but for `batch`."""

    batch: int  # sequences
    unroll: int
    attention: Wanted = "auto"
    cross_entropy: CrossEntropy = "one-pass"
    loss_chunk: int = 8192
    remat: Remat = "none"


class PeerPoint(NamedTuple):
    """The same of the peer."""

    batch: int
    attention: str = "auto"  # as torch chooses, or "cudnn"


class Row(NamedTuple):
    """One comparison."""

    model: GPT
    learning_rate: float
    stored: int  # sequences of tokens, drawn once
    most: int  # sequences in a batch
    start: Point
    moves: tuple[Move, ...]  # tried in turn on the best point, once the batch is chosen
    peer_start: PeerPoint
    peer_moves: tuple[Move, ...]


def small(name: str, **fields: Any) -> GPT:
    """GPT-2's or GPT-3's sizes, 1,024 positions and a table that is padded to 50,304 rows."""
    return GPT(**{**GPT.presets[name], "max_length": 1024, "vocab_multiple": 128, **fields})


GPT2 = Row(
    model=small("gpt2"),
    learning_rate=3e-4,
    stored=BATCHES * 64,
    most=256,
    start=Point(batch=32, unroll=12),
    moves=(
        Move({"cross_entropy": "plain"}),
        Move({"unroll": 1}),
        Move({"loss_chunk": 16384}),
        Move({"cross_entropy": "chunked"}),
        Move({"loss_chunk": 4096}),
        Move({"attention": "xla"}),
    ),
    peer_start=PeerPoint(32),
    peer_moves=(Move({"attention": "cudnn"}),),
)
GPT3 = Row(
    model=small("gpt3-1.3b"),
    learning_rate=1e-4,
    stored=BATCHES * 32,
    most=64,
    start=Point(batch=8, unroll=1),  # 24 layers without a loop take a minute to compile
    moves=(
        Move({"unroll": 24}),
        Move({"remat": "dots"}, times=2),
        Move({"cross_entropy": "plain"}),
        Move({"remat": "full"}, times=2),
        Move({"cross_entropy": "chunked"}),
    ),
    peer_start=PeerPoint(8),
    peer_moves=(Move({"attention": "cudnn"}),),
)
ROWS = {"124m": GPT2, "1.3b": GPT3}

TOY = small("gpt2", vocab_size=1021, max_length=64, depth=2, width=32, heads=2)
TOYS = {
    "124m": GPT2._replace(
        model=TOY,
        learning_rate=1e-3,
        stored=BATCHES * 8,
        most=4,
        start=Point(batch=2, unroll=1, loss_chunk=32),
        moves=(Move({"cross_entropy": "plain"}), Move({"cross_entropy": "chunked"})),
        peer_start=PeerPoint(2),
        peer_moves=(),
    ),
    "1.3b": GPT3._replace(
        model=dataclasses.replace(TOY, depth=3, head_dim=32),
        learning_rate=1e-3,
        stored=BATCHES * 8,
        most=4,
        start=Point(batch=2, unroll=1, loss_chunk=32),
        moves=(Move({"remat": "dots"}, times=2),),
        peer_start=PeerPoint(2),
        peer_moves=(),
    ),
}


def rows(tiny: bool) -> dict[str, Row]:
    """The rows by name, or toys of the same form."""
    return TOYS if tiny else ROWS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zipf(Data):
    """Ids as often as words are, each for itself, so that a loss falls to their entropy."""

    count: int
    length: int
    ids: int

    def tokens(self) -> np.ndarray:
        """int32 [count, length + 1]."""
        weights = np.cumsum(1 / (np.arange(self.ids) + SKEW))
        drawn = np.random.default_rng(0).random((self.count, self.length + 1)) * weights[-1]
        return np.minimum(np.searchsorted(weights, drawn), self.ids - 1).astype(np.int32)

    def load(self) -> Rows:
        tokens = self.tokens()
        weights = np.ones((self.count, self.length), np.float32)
        return Rows({"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights})


def experiment(row: Row, point: Point) -> Experiment:
    """The run that a point of a row stands for: bfloat16 beside a float32 master, AdamW."""
    model = dataclasses.replace(
        row.model, unroll=point.unroll, attention=point.attention, remat=point.remat
    )
    task = LanguageModel(
        model=model, cross_entropy=point.cross_entropy, loss_chunk=point.loss_chunk
    )
    return Experiment(
        name="gpt_gpu",
        task=task,
        data=Zipf(count=row.stored, length=model.max_length, ids=model.vocab_size),
        optimizer=AdamW(learning_rate=row.learning_rate, b2=B2, weight_decay=DECAY),
        schedule=Constant(),
        steps=1,
        batch_size=point.batch,
        compute_dtype="bfloat16",
    )


def torch_settings(row: Row) -> dict[str, Any]:
    """Of torch.optim.AdamW."""
    rule = AdamW()
    return {
        "lr": row.learning_rate,
        "betas": [rule.b1, B2],
        "eps": rule.eps,
        "weight_decay": DECAY,
    }
