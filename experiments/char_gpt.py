"""How well does a small GPT learn English reference text, beside models that only count bytes?

Command: `uv run lmjax train char_gpt`. Hardware: 2 CPU cores. Time: 3 min 12 s.
Expected: 2.171 bits per byte on Python 3.11's text, beside 2.467 of an interpolated
trigram model (the text differs between versions of Python).
"""

from lmjax.cli import experiment_main
from lmjax.data import Tokens
from lmjax.experiment import Experiment
from lmjax.models import GPT
from lmjax.optim import AdamW, Cosine
from lmjax.tasks import LanguageModel


def config() -> Experiment:
    """A GPT of 4 layers and width 128 on bytes, 16 windows of 128 a step."""
    return Experiment(
        name="char_gpt",
        task=LanguageModel(model=GPT(depth=4, width=128, heads=4, max_length=128, unroll=4)),
        data=Tokens(source="python_docs", sequence_length=128),
        optimizer=AdamW(learning_rate=2e-3, b2=0.99, weight_decay=0.1, clip_norm=1.0),
        schedule=Cosine(warmup_steps=50),
        steps=900,
        batch_size=16,
    )


if __name__ == "__main__":
    experiment_main(config)
