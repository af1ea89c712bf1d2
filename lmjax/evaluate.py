"""One held-out split to its end, weighted."""

from lmjax.data import Dataset
from lmjax.metrics import merge, values
from lmjax.parallel import Program, prefetch
from lmjax.state import TrainState


def evaluate(
    program: Program, state: TrainState, dataset: Dataset, batch_size: int
) -> dict[str, float]:
    """Metric -> mean over the whole held-out split.

    Batches have the size of training's and the last is padded with weight 0, so one shape serves.
    """
    batches = prefetch(dataset.evaluation(batch_size), program.place)
    return values(merge([program.eval_step(state, batch) for batch in batches]))
