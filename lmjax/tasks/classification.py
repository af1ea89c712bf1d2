"""One class for each example."""

import dataclasses
from typing import ClassVar

import numpy as np

from lmjax.data import Dataset
from lmjax.data.examples import LabelledExamples
from lmjax.errors import InputError
from lmjax.models import MLP, Classifier
from lmjax.tasks.base import Task, check_shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Softmax cross-entropy in nats; judged by accuracy on the held-out examples."""

    label: ClassVar[str] = "classification"
    headline: ClassVar[str] = "accuracy"

    model: Classifier = MLP()

    def check(self, dataset: Dataset) -> None:
        if not isinstance(dataset, LabelledExamples):
            raise InputError(f"task classification needs labels, but {dataset.name!r} has none")
        check_shape(
            "task.model.classes",
            self.model.classes,
            dataset.classes,
            "the number of classes in the data",
        )

    def baselines(self, dataset: Dataset) -> dict[str, float]:
        """Accuracy of the commonest class and of scikit-learn's logistic regression."""
        from sklearn.linear_model import LogisticRegression

        assert isinstance(dataset, LabelledExamples)
        train, test = dataset.train, dataset.test
        rows, held_out = (x["inputs"].reshape(len(x["inputs"]), -1) for x in (train, test))
        logistic = LogisticRegression(max_iter=2000).fit(rows, train["targets"])
        commonest = np.bincount(train["targets"]).argmax()
        return {
            "commonest class": float(np.mean(test["targets"] == commonest)),
            "logistic regression": float(logistic.score(held_out, test["targets"])),
        }
