"""What would it take to train Llama 3 8B: how much memory on each chip, how many operations?

Command: `uv run lmjax describe llama_8b`;
`uv run --isolated --extra aot lmjax plan llama_8b --topology v5p:4x4x4`;
`uv run lmjax train llama_8b` needs tokens and 64 chips that we have not had.
Hardware: 2 CPU cores, to describe and to plan it. Time: 5 s and 12 s.
Expected: 8,030,261,248 parameters; 34 GB of the 103 of a v5p.
"""

from lmjax.cli import experiment_main
from lmjax.data import Tokens
from lmjax.experiment import Experiment
from lmjax.mesh import Parallel
from lmjax.models import Llama
from lmjax.optim import AdamW, Cosine
from lmjax.tasks import LanguageModel


def config() -> Experiment:
    """4M tokens a step at the 8B model's peak rate; warm-up and steps are the 405B model's.

    (arXiv 2407.21783, table 3 and section 3.4.1.)
    """
    return Experiment(
        name="llama_8b",
        task=LanguageModel(model=Llama(**Llama.presets["llama3-8b"], remat="full")),
        data=Tokens(
            source="tokens:data/llama3",
            sequence_length=8192,
            vocab_size=128256,
            end_of_text=128001,
            width="uint32",
            validation_windows=512,
        ),
        optimizer=AdamW(learning_rate=3e-4, b2=0.95, weight_decay=0.1, clip_norm=1.0),
        schedule=Cosine(warmup_steps=8000, final=0.01),
        steps=1_200_000,
        batch_size=512,
        compute_dtype="bfloat16",
        parallel=Parallel(fsdp=64),
        evaluate_every=5000,
        save_every=5000,
    )


if __name__ == "__main__":
    experiment_main(config)
