"""Text from a trained language model."""

from collections.abc import Sequence

from lmjax import rundir
from lmjax.errors import InputError, check_integer
from lmjax.generate import Sampling, generate
from lmjax.load import load
from lmjax.rng import SEED_LIMIT, key_for
from lmjax.tasks import LanguageModel

MOST = 10**6  # tokens after each prompt


def sample(
    run: str,
    prompts: Sequence[str],
    length: int,
    sampling: Sampling,
    seed: int,
    step: int | None = None,
) -> list[str]:
    """Each prompt with what the model writes after it; raises InputError.

    Args:
      run: the run directory of a language model.
      prompts: what to continue, at least one character each.
      length: tokens to draw after each prompt.
      sampling: how to draw them.
      seed: of the draws.
      step: of the checkpoint; None = the newest.
    """
    check_integer("length", length, least=1, most=MOST)
    check_integer("seed", seed, least=0, most=SEED_LIMIT - 1)
    sampling.validate()
    loaded = load(run, step)
    task = loaded.experiment.task
    if not isinstance(task, LanguageModel):
        raise InputError(f"{run} holds a {task.label}, which writes no text")
    path = rundir.named(run)
    codec = rundir.recorded_codec(path, rundir.read_config(path))
    if codec is None:
        raise InputError(f"{run} was trained on token ids of which nobody says what they stand for")
    ids = [codec.encode(prompt).tolist() for prompt in prompts]
    key = key_for(seed, "text")
    drawn = generate(task.model, loaded.params, ids, length, key, sampling, codec.vocab_size)
    return [
        codec.decode(known + new).decode(errors="replace")
        for known, new in zip(ids, drawn.tolist(), strict=True)
    ]
