"""Text from a trained language model."""

from lmjax.errors import InputError, check_integer, check_number
from lmjax.load import load
from lmjax.rng import SEED_LIMIT, key_for
from lmjax.tasks import LanguageModel


def sample(
    run: str, prompt: str, length: int, temperature: float, seed: int, step: int | None = None
) -> str:
    """The prompt and `length` bytes after it; raises InputError.

    Args:
      run: the run directory of a language model.
      prompt: what to continue, at least one character.
      length: bytes to draw.
      temperature: of the softmax; 0 takes the likeliest byte.
      seed: of the draw.
      step: of the checkpoint; None = the newest.
    """
    check_integer("length", length, least=1)
    check_number("temperature", temperature, least=0)
    check_integer("seed", seed, least=0, most=SEED_LIMIT - 1)
    loaded = load(run, step)
    task = loaded.experiment.task
    if not isinstance(task, LanguageModel):
        raise InputError(f"{run} holds a {task.label}, which writes no text")
    text = task.generate(loaded.params, prompt.encode(), length, key_for(seed, "text"), temperature)
    return text.decode(errors="replace")
