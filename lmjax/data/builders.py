"""The embedded data as data sets of TFDS, so that one way of reading serves them and all others.

Written once as array_record, without TensorFlow and without the network. `metadata.json` beside
the records holds the SHA-256 of what each split reads as. Import this where TFDS is needed: it
takes a second.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from lmjax.data import embedded
from lmjax.data.tables import Labelled, stratified


class Embedded(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What all of them share."""

    VERSION = tfds.core.Version(embedded.VERSION)
    code_path = None  # nothing is downloaded, so TFDS need not look for checksums beside the code

    def _described(
        self, features: dict[str, Any], keys: tuple[str, str] | None, digests: dict[str, str]
    ) -> tfds.core.DatasetInfo:
        facts = embedded.FACTS[self.name]
        return tfds.core.DatasetInfo(
            builder=self,
            description=facts.what,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=keys,
            homepage=facts.homepage,
            citation=facts.citation,
            license=facts.licence,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(sha256=digests),
        )


class Text(Embedded, skip_registration=True):
    """Named documents in a fixed order; the configuration is the interpreter they come from."""

    BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name=embedded.INTERPRETER)]

    def documents(self) -> dict[str, bytes]:
        """Name -> text."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"name": tfds.features.Text(), "text": tfds.features.Text()}
        text = b"".join(self.documents().values())
        return self._described(features, None, {"train": hashlib.sha256(text).hexdigest()})

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, (name, text) in enumerate(self.documents().items()):
            yield number, {"name": name, "text": text}


class PythonDocs(Text):
    """The language reference."""

    name = "python_docs"

    def documents(self) -> dict[str, bytes]:
        return embedded.python_docs()


class PythonStdlib(Text):
    """The modules of the library."""

    name = "python_stdlib"

    def documents(self) -> dict[str, bytes]:
        return embedded.python_stdlib()


class LabelledSet(Embedded, skip_registration=True):
    """Examples of float32 with a class each, cut into the two parts of `tables.stratified`."""

    SHAPE: ClassVar[tuple[int, ...]]
    CLASSES: ClassVar[list[str]]

    def arrays(self) -> Labelled:
        """All examples, from which `test` is held out."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        digests = {}
        for split, (inputs, targets) in self._parts().items():
            digests[split] = hashlib.sha256(inputs.tobytes() + targets.tobytes()).hexdigest()
        features = {
            "input": tfds.features.Tensor(shape=self.SHAPE, dtype=np.float32),
            "label": tfds.features.ClassLabel(names=self.CLASSES),
        }
        return self._described(features, ("input", "label"), digests)

    def _parts(self) -> dict[str, Labelled]:
        inputs, targets = self.arrays()
        train, test = stratified(targets, embedded.FACTS[self.name].held_out)
        return {"train": (inputs[train], targets[train]), "test": (inputs[test], targets[test])}

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {name: self._generate_examples(*part) for name, part in self._parts().items()}

    def _generate_examples(
        self, inputs: np.ndarray, targets: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, (example, target) in enumerate(zip(inputs, targets, strict=True)):
            yield number, {"input": example, "label": int(target)}


class Digits(LabelledSet):
    """Handwritten digits."""

    name = "digits"
    SHAPE = (8, 8, 1)
    CLASSES: ClassVar = [str(digit) for digit in range(10)]

    def arrays(self) -> Labelled:
        return embedded.digits()


class BreastCancer(LabelledSet):
    """Breast tumours."""

    name = "breast_cancer"
    SHAPE = (30,)
    CLASSES: ClassVar = ["malignant", "benign"]

    def arrays(self) -> Labelled:
        return embedded.breast_cancer()


BUILDERS: dict[str, Callable[..., Any]] = {
    cls.name: cls for cls in (Digits, BreastCancer, PythonDocs, PythonStdlib)
}
