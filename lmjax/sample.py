"""Text from a trained language model."""

from collections.abc import Sequence

from lmjax import rundir
from lmjax.errors import InputError, check_integer
from lmjax.flags import PROMPT, Parser, number, whole
from lmjax.generate import Sampling, generate
from lmjax.load import load
from lmjax.rng import SEED_LIMIT, key_for
from lmjax.tasks import LanguageModel

MOST = 10**6  # tokens after each prompt


def run(words: Sequence[str]) -> None:
    """`lmjax sample`."""
    parser = Parser(prog="lmjax sample", description="Text from a trained language model.")
    parser.add_argument("run", help="the run directory")
    parser.add_argument(PROMPT, action="append", help="text to go on from; may be repeated")
    parser.add_argument("--length", type=whole, default=400, help="tokens to write after each")
    defaults = Sampling()
    parser.add_argument(
        "--temperature", type=number, default=defaults.temperature, help="0 = the likeliest token"
    )
    parser.add_argument(
        "--top-k", type=whole, default=defaults.top_k, help="draw from the k likeliest; 0 = all"
    )
    parser.add_argument(
        "--top-p",
        type=number,
        default=defaults.top_p,
        help="draw from the likeliest that reach this probability; 1 = all",
    )
    parser.add_argument("--seed", type=whole, default=0, help="of the draws")
    parser.add_argument("--step", type=whole, default=None, help="of the checkpoint; the newest")
    given = parser.parse_args(words)
    sampling = Sampling(temperature=given.temperature, top_k=given.top_k, top_p=given.top_p)
    texts = sample(
        given.run, given.prompt or ["The "], given.length, sampling, given.seed, given.step
    )
    print("\n---\n".join(texts))


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
