"""One class for each example."""

import dataclasses
import math
import warnings
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int64, PRNGKeyArray

from lmjax.augmentation import Augmentation, NoAugmentation
from lmjax.data import Batch, Dataset
from lmjax.data.examples import LabelledExamples
from lmjax.data.tables import BLOCK, ArrayTable
from lmjax.errors import FieldError, InputError
from lmjax.models import MLP, Classifier
from lmjax.tasks.base import Task, check_shape

VALUES = 2**23  # numbers that the baseline is fitted to: 10,699 images of 28 x 28


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Softmax cross-entropy in nats; judged by accuracy on the held-out examples."""

    label: ClassVar[str] = "classification"
    headline: ClassVar[str] = "accuracy"

    model: Classifier = MLP()
    augmentation: Augmentation = NoAugmentation()  # of training examples, inside the step

    def check(self, dataset: Dataset) -> None:
        if not isinstance(dataset, LabelledExamples):
            raise InputError(f"task classification needs labels, but {dataset.name!r} has none")
        check_shape(
            "task.model.classes",
            self.model.classes,
            dataset.classes,
            "the number of classes in the data",
        )

    def check_batch(self, batch: Batch) -> None:
        try:
            self.augmentation.check(batch["inputs"].shape[1:])
        except FieldError as error:
            raise error.under("task.augmentation") from None

    def augment(self, batch: Batch, key: PRNGKeyArray) -> Batch:
        return self.augmentation.apply(batch, key, self.model.classes)

    def baselines(self, dataset: Dataset) -> dict[str, float]:
        """Accuracy of the commonest class and of scikit-learn's logistic regression.

        The latter is fitted to no more than `VALUES` numbers, and its name says of how many
        examples; there is neither for a set that is too large to be held in memory.
        """
        assert isinstance(dataset, LabelledExamples)
        train, test = dataset.train, dataset.test
        if not isinstance(train, ArrayTable) or not isinstance(test, ArrayTable):
            return {}
        count = min(len(train), VALUES // math.prod(train.shape))
        chosen = np.arange(count) * len(train) // max(count, 1)
        commonest = np.bincount(train.targets).argmax()
        found = {"commonest class": float(np.mean(test.targets == commonest))}
        if len(np.unique(train.targets[chosen])) > 1:
            name = "logistic regression"
            name += "" if count == len(train) else f" on {count:,} examples"
            found[name] = _logistic(dataset, chosen)
        return found


def _logistic(dataset: LabelledExamples, chosen: Int64[np.ndarray, "n"]) -> float:
    """Held-out accuracy of a regression on the chosen training examples."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    train = dataset.gather(dataset.train, chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what it reached is what it is
        model = LogisticRegression(max_iter=2000).fit(_flat(train), train["targets"])
    right = 0.0
    for batch in dataset.evaluation(BLOCK):
        hits = model.predict(_flat(batch)) == batch["targets"]
        right += float(np.sum(batch["weights"] * hits))
    return right / len(dataset.test)


def _flat(batch: Batch) -> Float32[np.ndarray, "B n"]:
    return batch["inputs"].reshape(len(batch["inputs"]), -1)
