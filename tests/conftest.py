"""Shared by all tests: strict ranks, and runs small enough for a laptop."""

import jax
import pytest

from lmjax.data import Examples, Tokens
from lmjax.experiment import Experiment
from lmjax.models import GPT, MLP
from lmjax.optim import SGD, AdamW, Constant
from lmjax.tasks import Classification, LanguageModel

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def shared_compilations(tmp_path_factory):
    """Compile each program once a session: tests run the same small ones again and again."""
    folder = tmp_path_factory.getbasetemp().parent / "compilations"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture
def tiny_gpt() -> Experiment:
    """A GPT with dropout on embedded text: 20 steps in about a second once compiled."""
    return Experiment(
        name="tiny_gpt",
        task=LanguageModel(
            model=GPT(depth=2, width=16, heads=2, max_length=16, dropout=0.1),
            showcase_length=8,
        ),
        data=Tokens(sequence_length=16, validation_fraction=0.005),
        optimizer=AdamW(learning_rate=1e-2, clip_norm=1.0),
        steps=20,
        batch_size=8,
        log_every=3,
        evaluate_every=10,
        save_every=7,
    )


@pytest.fixture
def tiny_mlp() -> Experiment:
    """An MLP on embedded digits, with a schedule that does not depend on the number of steps."""
    return Experiment(
        name="tiny_mlp",
        task=Classification(model=MLP(hidden=(16,))),
        data=Examples(),
        optimizer=SGD(learning_rate=0.1, momentum=0.9),
        schedule=Constant(),
        steps=12,
        batch_size=32,
        log_every=4,
        evaluate_every=0,
        save_every=5,
    )
