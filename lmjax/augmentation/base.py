"""What a task needs of an augmentation."""

import dataclasses
from typing import ClassVar

from jaxtyping import PRNGKeyArray

from lmjax.data import Batch
from lmjax.parts import Part


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation(Part):
    """What training sees in place of its examples, drawn anew at every step and inside it."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise InputError where examples of this shape cannot be augmented."""

    def apply(self, batch: Batch, key: PRNGKeyArray, classes: int) -> Batch:
        """The batch augmented; targets int32 [B], or float32 [B, classes] where examples mix.

        Example i draws from fold_in(key, i), with i its number in the batch over all devices and
        before accumulation: neither decides what it draws.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoAugmentation(Augmentation):
    """The examples as they are."""

    label: ClassVar[str] = "none"

    def apply(self, batch: Batch, key: PRNGKeyArray, classes: int) -> Batch:
        return batch
