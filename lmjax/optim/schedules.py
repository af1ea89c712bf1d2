"""Learning-rate schedules, as a factor of the peak rate: warm-up to 1, then a shape.

Update number t (from 0) of a run of S updates with W of warm-up uses factor
    (t + 1) / W                        for t < W, so that the first update already moves
    shape((t - W) / (S - W))           from there on, shape(0) = 1
and each shape ends at `final`, which update S (one past the last) would use.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from lmjax.errors import FieldError, check_integer, check_number
from lmjax.parts import Part


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule(Part):
    """A shape over the progress of a run."""

    depends_on_steps: ClassVar[bool] = True  # False: a run may be prolonged without a change

    warmup_steps: int = 0  # updates over which the rate rises linearly to its peak

    def validate(self) -> None:
        check_integer("warmup_steps", self.warmup_steps, least=0)

    def check_steps(self, steps: int) -> None:
        """Refuse a warm-up that does not fit into the run."""
        if self.warmup_steps > steps:
            shorter = f"add --schedule.warmup-steps {steps // 4}"
            allowed = f"must be at most the run's {steps} steps; {shorter}"
            raise FieldError("warmup_steps", self.warmup_steps, allowed)

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """The factor at progress in [0, 1] through what follows the warm-up."""
        raise NotImplementedError

    def factor(self, count: int | Integer[Array, ""], steps: int) -> Float[Array, ""]:
        """The factor of the peak rate for update number `count` (from 0) of `steps`."""
        now = jnp.asarray(count, jnp.float32)
        warmup = self.warmup_steps
        progress = jnp.clip((now - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        return jnp.where(now < warmup, (now + 1) / max(warmup, 1), self.shape(progress))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The peak rate throughout."""

    label: ClassVar[str] = "constant"
    depends_on_steps: ClassVar[bool] = False

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.ones_like(progress)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decaying(Schedule):
    """A schedule that falls to a fraction of the peak."""

    final: float = 0.0  # fraction of the peak rate at the end

    def validate(self) -> None:
        super().validate()
        check_number("final", self.final, least=0, most=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Decaying):
    """A straight line from the peak to `final`."""

    label: ClassVar[str] = "linear"

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        return 1.0 - (1.0 - self.final) * progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(Decaying):
    """Half a cosine from the peak to `final` (Loshchilov and Hutter, arXiv 1608.03983)."""

    label: ClassVar[str] = "cosine"

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


@dataclasses.dataclass(frozen=True, kw_only=True)
class WSD(Decaying):
    """Warm-up, stable, decay (Hu et al., arXiv 2404.06395), with a linear decay."""

    label: ClassVar[str] = "wsd"

    decay_fraction: float = 0.2  # part of what follows the warm-up that is spent on the decay

    def validate(self) -> None:
        super().validate()
        check_number("decay_fraction", self.decay_fraction, above=0, most=1)

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        into = jnp.maximum(progress - (1.0 - self.decay_fraction), 0.0) / self.decay_fraction
        return 1.0 - (1.0 - self.final) * into
