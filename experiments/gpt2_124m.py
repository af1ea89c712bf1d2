"""Does GPT-2 small, trained from scratch on web text, reach the loss that nanoGPT reports?

Command: `uv run lmjax train gpt2_124m --data.source tokens:DIR`, where DIR is what nanoGPT's
`data/openwebtext/prepare.py` wrote (train.bin, val.bin) or
`uv run lmjax data tokenize tfds:c4/en --out DIR --tokenizer PATH/OF/GPT2/tokenizer.json`.
Hardware: eight A100 or better; on 2 CPU cores `uv run lmjax describe gpt2_124m` is what works.
Time: about 4 days on eight A100, as nanoGPT reports; we have not run it to its end.
Expected: a validation loss of 2.85 on OpenWebText after 600,000 steps, by nanoGPT's report; the
released GPT-2 has 3.11 there. 124,439,808 parameters.
"""

from lmjax.cli import experiment_main
from lmjax.data import Tokens
from lmjax.experiment import Experiment
from lmjax.models import GPT
from lmjax.optim import AdamW, Cosine
from lmjax.tasks import LanguageModel


def config() -> Experiment:
    """GPT-2 small by nanoGPT's recipe: 480 windows of 1,024 tokens, 491,520 tokens a step."""
    return Experiment(
        name="gpt2_124m",
        task=LanguageModel(model=GPT(**GPT.presets["gpt2"])),
        data=Tokens(
            source="tokens:data/openwebtext", sequence_length=1024, validation_windows=4800
        ),
        optimizer=AdamW(learning_rate=6e-4, b2=0.95, weight_decay=0.1, clip_norm=1.0),
        schedule=Cosine(warmup_steps=2000, final=0.1),
        steps=600_000,
        batch_size=480,
        accumulation=10,
        compute_dtype="bfloat16",
        evaluate_every=2000,
        save_every=2000,
    )


if __name__ == "__main__":
    experiment_main(config)
