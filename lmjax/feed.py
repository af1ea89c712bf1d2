"""What the steps of a run are given: its batches on the devices, from any step on."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from lmjax.data import Batch, Dataset
from lmjax.experiment import Experiment
from lmjax.parallel import Program, prefetch


class Fed(NamedTuple):
    """What one step is given."""

    batch: Batch
    previous: Batch | None  # the one before it, if the optimizer asks for it
    digest: str  # of the batch


def feed(
    experiment: Experiment,
    dataset: Dataset,
    program: Program,
    digests: Callable[[Batch, int], list[str]],
    start: int,
) -> Iterator[Fed]:
    """From step `start` to the end of the run; `digests` is of rows and the size of a batch.

    The very first batch has none before it and stands in for it. Only the rows that lie on devices
    of this process are made.
    """
    size, chunk, share = experiment.batch_size, program.chunk, program.share
    asked = experiment.optimizer.needs_previous_batch
    first = max(start - 1, 0) if asked else start
    numbers = range(first // chunk, -(-experiment.steps // chunk))
    host = (
        dataset.rows(experiment.seed, number * chunk * size + share.start, len(share))
        for number in numbers
    )

    def place(rows: Batch) -> list[tuple[Batch, str]]:
        # Copying to the devices goes on while the host computes the digests.
        return list(zip(program.place(rows), digests(rows, size), strict=True))

    whole = prefetch(host, place)
    fed = itertools.islice(whole, first % chunk, experiment.steps - numbers.start * chunk)
    previous = next(fed)[0] if first < start else None
    for batch, digest in fed:
        yield Fed(batch, (batch if previous is None else previous) if asked else None, digest)
        previous = batch
