"""Augmentation of images [B, height, width, channels]."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, PRNGKeyArray

from lmjax.augmentation.base import Augmentation
from lmjax.augmentation.geometry import Image, cut_out, shifted, turned
from lmjax.augmentation.mixing import cut_mask, mixed
from lmjax.data import Batch
from lmjax.data.batch import row_numbers
from lmjax.errors import FieldError, InputError, check_integer, check_number
from lmjax.losses import distribution

ASPECTS = math.log(4 / 3)  # of the windows of crop_area: width over height, either way


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageAugmentation(Augmentation):
    """By default what ResNets for CIFAR have: flips, and shifts by up to 4 pixels. 0 = off.

    In this order: flip; crop of a window, resized; turn and zoom, in one interpolation; shift;
    then mixup or cutmix of each image with the one before it, in the batch or virtual shard.
    """

    label: ClassVar[str] = "image"

    flip: bool = True  # left and right exchanged in half of the images
    crop_area: float = 0.0  # least area, of the image's, of a window that replaces the image
    rotate_degrees: float = 0.0  # largest turn, either way
    scale: float = 0.0  # largest zoom: by up to 1 + scale, and down to its inverse
    crop_padding: int = 4  # largest shift, pixels either way; the crop of an image so padded
    mixup: float = 0.0  # alpha of Beta(alpha, alpha), the share of an image in a mixture
    cutmix: float = 0.0  # the same of the share kept; with mixup on as well, either is as likely

    def validate(self) -> None:
        check_number("crop_area", self.crop_area, least=0, below=1)
        check_number("rotate_degrees", self.rotate_degrees, least=0, most=180)
        for name in ("scale", "mixup", "cutmix"):
            check_number(name, getattr(self, name), least=0)
        check_integer("crop_padding", self.crop_padding, least=0)

    def check(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 3:
            raise InputError(f"augmentation {self.label} takes images, not examples of {shape}")
        if self.crop_padding >= min(shape[:2]):
            allowed = f"must be less than the {min(shape[:2])} pixels of an image's side"
            raise FieldError("crop_padding", self.crop_padding, allowed)

    def apply(self, batch: Batch, key: PRNGKeyArray, classes: int) -> Batch:
        keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(row_numbers(batch))
        batch = {**batch, "inputs": jax.vmap(self.moved)(batch["inputs"], keys)}
        if not (self.mixup or self.cutmix):
            return batch
        images, weights = batch["inputs"], batch["weights"]
        keep = jax.vmap(lambda key: self.kept(key, *images.shape[1:3]))(keys)
        before = jnp.roll(weights, 1)[:, None, None]
        keep = jnp.where(before > 0, keep, 1.0)  # padding mixes into nothing
        images, targets = mixed(images, distribution(batch["targets"], classes), keep)
        return {**batch, "inputs": images, "targets": targets}

    def moved(self, image: Image, key: PRNGKeyArray) -> Image:
        """One image without mixing, as its key says."""
        # All numbers in one draw, used or not: compiling many costs seconds each on a CPU, and
        # what is turned off leaves the others as they were.
        flip, degrees, zoom, down, right, *window = jax.random.uniform(
            jax.random.fold_in(key, 0), (9,)
        )
        if self.flip:
            image = jnp.where(flip < 0.5, image[:, ::-1], image)
        if self.crop_area:
            image = cut_out(image, *window_of(jnp.stack(window), self.crop_area, image.shape))
        if self.rotate_degrees or self.scale:
            turn = self.rotate_degrees * (2 * degrees - 1)
            image = turned(image, turn, (1 + self.scale) ** (2 * zoom - 1))
        if self.crop_padding:
            most = self.crop_padding
            down, right = whole(down, 2 * most + 1), whole(right, 2 * most + 1)
            image = shifted(image, down - most, right - most, most)
        return image

    def kept(self, key: PRNGKeyArray, height: int, width: int) -> Float[Array, "H W"]:
        """The share of its own that each pixel of one image keeps."""
        either, row, column = jax.random.uniform(jax.random.fold_in(key, 1), (3,))
        cuts = (either < 0.5) if self.mixup and self.cutmix else jnp.bool_(self.cutmix)
        alpha = jnp.where(cuts, self.cutmix, self.mixup)
        share = jax.random.beta(jax.random.fold_in(key, 2), alpha, alpha)
        mask = cut_mask(share, whole(row, height), whole(column, width), height, width)
        return jnp.where(cuts, mask.astype(share.dtype), share)


def whole(uniform: Float[Array, ""], count: int) -> Integer[Array, ""]:
    """A number in [0, 1) as one of 0 ... count - 1; the last again where the product rounds up."""
    return jnp.minimum((uniform * count).astype(jnp.int32), count - 1)


def window_of(
    uniform: Float[Array, "4"], least: float, shape: tuple[int, ...]
) -> tuple[Array, Array, Array, Array]:
    """(top, left, height, width), in pixels, that four numbers in [0, 1) stand for.

    Area and aspect as Inception's (arXiv 1409.4842): uniform in [least, 1] of the image's, and
    log-uniform in [3/4, 4/3]; a side that would be longer than the image's is cut to it.
    """
    height, width = shape[:2]
    area, aspect, down, right = uniform
    side = jnp.sqrt(least + (1 - least) * area)
    stretch = jnp.exp(ASPECTS * (aspect - 0.5))  # the root of exp(ASPECTS (2 aspect - 1))
    tall = height * jnp.minimum(side / stretch, 1)
    wide = width * jnp.minimum(side * stretch, 1)
    return down * (height - tall), right * (width - wide), tall, wide
