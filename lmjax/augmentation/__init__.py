"""Augmentations of training examples. To be imported here is to be selectable by label."""

from lmjax.augmentation.base import Augmentation, NoAugmentation
from lmjax.augmentation.image import ImageAugmentation

__all__ = ["Augmentation", "ImageAugmentation", "NoAugmentation"]
