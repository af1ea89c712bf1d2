"""Examples of a fixed shape with a class each, gathered by index."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int64

from lmjax.data import embedded
from lmjax.data.batch import Batch, Data, Dataset, held_out
from lmjax.data.order import shuffled
from lmjax.data.patterns import reaches
from lmjax.data.tables import ArrayTable, Parts, Table, as_input, in_memory, moments, stratified
from lmjax.errors import check_integer, check_number, unknown

# Read as they are, and as tfds:NAME to the same bits: TFDS takes 0.9 s of CPU to import and open.
EMBEDDED = {"digits": embedded.digits, "breast_cancer": embedded.breast_cancer}
MOST_PIXELS = 2**13  # of a side of an image, which then takes 0.8 GB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples(Data):
    """Labelled examples, of which some are only ever evaluated on.

    Those are the split `test` of a data set of TFDS, or else `validation`; the folder test/ of
    images; and where there is neither, `held_out` examples drawn by `tables.stratified`.
    """

    label: ClassVar[str] = "examples"

    source: str = "digits"  # digits, breast_cancer, tfds:NAME[/CONFIG][:VERSION] or images:PATH
    held_out: int = 360  # examples to hold out where the source has no such part
    held_out_split: str = ""  # of a data set of TFDS; "" = test, or else validation
    data_dir: str = ""  # of TFDS; "" = TFDS_DATA_DIR or its usual place
    image_size: int = 0  # pixels; cut and resize all images to this square; 0 = as they are
    standardize: bool = False  # each feature or channel to mean 0, deviation 1 over training
    memory_gb: float = 2.0  # GiB of inputs that are held in memory; larger sets are read by index

    @property
    def free_fields(self) -> frozenset[str]:
        return frozenset({"data_dir", "memory_gb"})

    def validate(self) -> None:
        check_integer("held_out", self.held_out, least=1)
        check_integer("image_size", self.image_size, least=0, most=MOST_PIXELS)
        check_number("memory_gb", self.memory_gb, least=0)

    def reads(self, run: str) -> bool:
        prefix, _, path = self.source.partition(":")
        return prefix == "images" and reaches(f"{path}/**", run)

    def load(self) -> "LabelledExamples":
        parts = in_memory(self.read(), self.memory_gb)
        return LabelledExamples(self.source, parts, self.standardize)

    def read(self) -> Parts:
        """The source's two parts, as it holds them."""
        prefix, colon, _ = self.source.partition(":")
        readers: dict[str, Callable[[], Parts]] = {
            "tfds": self._read_prepared,
            "images": self._read_images,
        }
        if prefix in readers and colon:
            return readers[prefix]()
        if self.source not in EMBEDDED:
            raise unknown("data set", self.source, [*EMBEDDED, "tfds:NAME", "images:PATH"])
        inputs, classes = EMBEDDED[self.source]()
        train, test = stratified(classes, self.held_out)
        names = [str(number) for number in range(int(classes.max()) + 1)]
        return Parts(
            ArrayTable(inputs[train], classes[train]),
            ArrayTable(inputs[test], classes[test]),
            names,
        )

    def _read_prepared(self) -> Parts:
        from lmjax.data.records import read_prepared

        return read_prepared(self.source, self.data_dir, self.held_out_split, self.image_size)

    def _read_images(self) -> Parts:
        from lmjax.data.images import read_images

        return read_images(self.source, self.held_out, self.image_size)


class LabelledExamples(Dataset):
    """A training and a held-out part."""

    def __init__(self, name: str, parts: Parts, standardize: bool = False):
        self.name = name
        self.train, self.test, self.class_names = parts
        self.classes = len(self.class_names)
        self.scale = moments(self.train) if standardize else None
        content = hashlib.sha256()
        for part in (self.train, self.test):
            part.feed(content)
        for numbers in self.scale or ():
            content.update(numbers.tobytes())
        self.digest = content.hexdigest()
        self.sampled = not isinstance(self.train, ArrayTable)
        shape = " x ".join(map(str, self.train.shape))
        self.summary = (
            f"{len(self.train):,} training and {len(self.test):,} held-out examples "
            f"of {shape}, {self.classes} classes"
            + ("" if isinstance(self.train, ArrayTable) else ", read by index")
        )

    def rows(self, seed: int, start: int, count: int) -> Batch:
        _, chosen = shuffled(start, count, len(self.train), seed)
        return self.gather(self.train, chosen)

    def evaluation(self, batch_size: int, share: range | None = None) -> Iterator[Batch]:
        def make(rows: range) -> Batch:
            return self.gather(self.test, np.asarray(rows))

        return held_out(len(self.test), batch_size, share, make)

    def gather(self, part: Table, chosen: Int64[np.ndarray, "B"]) -> Batch:
        """The chosen examples of a part as a batch."""
        inputs, targets = part.gather(chosen)
        return {
            "inputs": self._scaled(as_input(inputs)),
            "targets": targets,
            "weights": np.ones(len(chosen), np.float32),
        }

    def _scaled(self, x: Float32[np.ndarray, "B *example"]) -> Float32[np.ndarray, "B *example"]:
        if self.scale is None:
            return x
        mean, deviation = self.scale
        return (x - mean) / deviation
