"""Examples of a fixed shape with a class each, held in memory and gathered by index."""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int32

from lmjax.data import embedded
from lmjax.data.batch import Batch, Data, Dataset, padded
from lmjax.data.order import positions, shuffled
from lmjax.errors import check_integer, unknown

EMBEDDED = {"digits": embedded.digits}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples(Data):
    """Labelled examples; a stratified part of them is held out.

    The split is scikit-learn's train_test_split(..., stratify=classes, random_state=0), so that
    anyone can score another classifier on the same examples.
    """

    label: ClassVar[str] = "examples"

    source: str = "digits"  # an embedded set
    held_out: int = 360  # examples that are only ever evaluated on

    def validate(self) -> None:
        check_integer("held_out", self.held_out, least=1)

    def load(self) -> "LabelledExamples":
        from sklearn.model_selection import train_test_split

        if self.source not in EMBEDDED:
            raise unknown("data set", self.source, EMBEDDED)
        inputs, classes = EMBEDDED[self.source]()
        check_integer("held_out", self.held_out, least=len(set(classes)), most=len(inputs) // 2)
        split = train_test_split(
            inputs, classes, test_size=self.held_out, stratify=classes, random_state=0
        )
        return LabelledExamples(self.source, *map(np.asarray, split))


class LabelledExamples(Dataset):
    """(inputs, targets) arrays of a training and a held-out part."""

    def __init__(
        self,
        name: str,
        train_inputs: Float32[np.ndarray, "n *example"],
        test_inputs: Float32[np.ndarray, "m *example"],
        train_targets: Int32[np.ndarray, "n"],
        test_targets: Int32[np.ndarray, "m"],
    ):
        self.name = name
        self.train = {"inputs": train_inputs, "targets": train_targets}
        self.test = {"inputs": test_inputs, "targets": test_targets}
        arrays = [*self.train.values(), *self.test.values()]
        content = hashlib.sha256()
        for array in arrays:
            content.update(f"{array.dtype}{array.shape}".encode())
            content.update(np.ascontiguousarray(array).tobytes())
        self.digest = content.hexdigest()
        self.classes = int(max(train_targets.max(), test_targets.max())) + 1
        shape = " x ".join(map(str, train_inputs.shape[1:]))
        self.summary = (
            f"{len(train_inputs):,} training and {len(test_inputs):,} held-out examples "
            f"of {shape}, {self.classes} classes"
        )

    def batch(self, seed: int, step: int, batch_size: int) -> Batch:
        size = len(self.train["inputs"])
        _, chosen = shuffled(positions(step, batch_size), size, seed)
        return _gather(self.train, chosen)

    def evaluation(self, batch_size: int) -> Iterator[Batch]:
        size = len(self.test["inputs"])
        for first in range(0, size, batch_size):
            chosen = np.arange(first, min(first + batch_size, size))
            yield padded(_gather(self.test, chosen), batch_size)


def _gather(arrays: dict[str, np.ndarray], chosen: np.ndarray) -> Batch:
    return {name: array[chosen] for name, array in arrays.items()} | {
        "weights": np.ones(len(chosen), np.float32)
    }
