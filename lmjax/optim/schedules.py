"""Learning-rate schedules, as a factor of the peak rate: warm-up to 1, then a shape.

Update number t (from 0) of a run of S updates with W of warm-up uses factor
    (t + 1) / W                        for t < W, so that the first update already moves
    shape((t - W) / (S - W))           from there on, shape(0) = 1
and each shape that falls ends at `final`, which update S (one past the last) would use. Two are
otherwise: `inverse-sqrt` does not ask how long the run is, and `one-cycle` has a rise of its own.
"""

import dataclasses
import itertools
from typing import ClassVar, Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from lmjax.errors import FieldError, check_choice, check_integer, check_number
from lmjax.parts import Part

Tail = Literal["linear", "1-sqrt", "cosine"]


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

    def after(self, since: Float[Array, ""], span: int) -> Float[Array, ""]:
        """The factor of the update number `since` (from 0) of `span` that follow the warm-up."""
        return self.shape(jnp.clip(since / max(span, 1), 0.0, 1.0))

    def factor(self, count: int | Integer[Array, ""], steps: int) -> Float[Array, ""]:
        """The factor of the peak rate for update number `count` (from 0) of `steps`."""
        now = jnp.asarray(count, jnp.float32)
        warmup = self.warmup_steps
        after = self.after(now - warmup, steps - warmup)
        return jnp.where(now < warmup, (now + 1) / max(warmup, 1), after)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The peak rate throughout."""

    label: ClassVar[str] = "constant"
    depends_on_steps: ClassVar[bool] = False

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.ones_like(progress)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseSqrt(Schedule):
    """sqrt(s / (s + u + 1)) at update u after the warm-up, with a time scale s.

    With s the warm-up's length this is "noam" (Vaswani et al., arXiv 1706.03762, section 5.3): from
    step number t = 1 on, min(t / W, sqrt(W / t)). T5 has s = 10,000 (arXiv 1910.10683).
    """

    label: ClassVar[str] = "inverse-sqrt"
    depends_on_steps: ClassVar[bool] = False

    timescale: int = 0  # updates, s above; 0 = those of the warm-up, but at least 1
    floor: float = 0.0  # least fraction of the peak

    def validate(self) -> None:
        super().validate()
        check_integer("timescale", self.timescale, least=0)
        check_number("floor", self.floor, least=0, most=1)

    def after(self, since: Float[Array, ""], span: int) -> Float[Array, ""]:
        scale = self.timescale or max(self.warmup_steps, 1)
        # What is before the warm-up's end is not used, but is computed: no root of less than 0.
        return jnp.maximum(jnp.sqrt(scale / (scale + jnp.maximum(since, 0.0) + 1)), self.floor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decaying(Schedule):
    """A schedule that falls to a fraction of the peak."""

    final: float = 0.0  # fraction of the peak rate at the end
    floor: float = 0.0  # least fraction of the peak, where the shape would go below

    def validate(self) -> None:
        super().validate()
        check_number("final", self.final, least=0, most=1)
        check_number("floor", self.floor, least=0, most=1)

    def fall(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """From 1 at progress 0 to 0 at progress 1."""
        raise NotImplementedError

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        return self.bounded(self.final + (1.0 - self.final) * self.fall(progress))

    def bounded(self, factor: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.maximum(factor, self.floor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Decaying):
    """A straight line from the peak to `final` (D2Z: Bergsma et al., arXiv 2502.15938)."""

    label: ClassVar[str] = "linear"

    def fall(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        return 1.0 - progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(Decaying):
    """Half a cosine from the peak to `final` (Loshchilov and Hutter, arXiv 1608.03983)."""

    label: ClassVar[str] = "cosine"

    def fall(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        return half_cosine(progress)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Polynomial(Decaying):
    """(1 - progress)^power; a power of 1 is linear (DeepLab has .9, arXiv 1606.00915)."""

    label: ClassVar[str] = "polynomial"

    power: float = 2.0  # of what remains of the run

    def validate(self) -> None:
        super().validate()
        check_number("power", self.power, above=0)

    def fall(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        return (1.0 - progress) ** self.power


@dataclasses.dataclass(frozen=True, kw_only=True)
class REX(Decaying):
    """(1 - z) / (1 - z / 2) at progress z: reflected exponential (Chen et al., 2107.04197)."""

    label: ClassVar[str] = "rex"

    def fall(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        return (1.0 - progress) / (1.0 - 0.5 * progress)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exponential(Decaying):
    """final^progress: the same share is lost at every update."""

    label: ClassVar[str] = "exponential"

    final: float = 0.01  # fraction of the peak rate at the end, above 0

    def validate(self) -> None:
        super().validate()
        check_number("final", self.final, above=0, most=1)

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        return self.bounded(self.final**progress)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WSD(Decaying):
    """Warm-up, stable, decay (Hu et al., arXiv 2404.06395; 1-sqrt: Haegele et al., 2405.18392)."""

    label: ClassVar[str] = "wsd"

    decay_fraction: float = 0.2  # part of what follows the warm-up that is spent on the decay
    tail: Tail = "linear"  # shape of the decay

    def validate(self) -> None:
        super().validate()
        check_number("decay_fraction", self.decay_fraction, above=0, most=1)
        check_choice("tail", self.tail, get_args(Tail))

    def fall(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        into = jnp.maximum(progress - (1.0 - self.decay_fraction), 0.0) / self.decay_fraction
        if self.tail == "cosine":
            return half_cosine(into)
        return 1.0 - (jnp.sqrt(into) if self.tail == "1-sqrt" else into)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfiniteCosine(Schedule):
    """Half a cosine to a plateau, which can be prolonged, then exponential to `final`.

    The infinite schedule of Ibrahim et al. (arXiv 2403.08763, section 4.3), which can go on from
    its plateau with new data and no second warm-up. The fractions are ours.
    """

    label: ClassVar[str] = "infinite-cosine"

    plateau: float = 0.55  # fraction of the peak between the cosine and the decay
    cooldown_fraction: float = 0.6  # part spent on the way to the plateau
    decay_fraction: float = 0.15  # part spent on the decay at the end
    final: float = 0.1  # fraction of the peak rate at the end, above 0

    def validate(self) -> None:
        super().validate()
        check_number("plateau", self.plateau, above=0, most=1)
        check_number("final", self.final, above=0, most=self.plateau)
        check_number("cooldown_fraction", self.cooldown_fraction, above=0, below=1)
        left = round(1 - self.cooldown_fraction, 12)  # .1 after .9
        check_number("decay_fraction", self.decay_fraction, above=0, most=left)

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        cooled = jnp.minimum(progress / self.cooldown_fraction, 1.0)
        into = jnp.maximum(progress - (1.0 - self.decay_fraction), 0.0) / self.decay_fraction
        first = self.plateau + (1.0 - self.plateau) * half_cosine(cooled)
        return first * (self.final / self.plateau) ** into


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piecewise(Schedule):
    """Constant between boundaries, at each of which the rate is multiplied.

    By default that of ResNet on CIFAR (He et al., arXiv 1512.03385): a tenth at 1/2 and at 3/4.
    """

    label: ClassVar[str] = "piecewise"

    boundaries: tuple[float, ...] = (0.5, 0.75)  # parts of what follows the warm-up, ascending
    scale: float = 0.1  # what the rate is multiplied with at each

    def validate(self) -> None:
        super().validate()
        for boundary in self.boundaries:
            check_number("boundaries", boundary, above=0, below=1)
        if any(a >= b for a, b in itertools.pairwise(self.boundaries)):
            raise FieldError("boundaries", self.boundaries, "must ascend")
        check_number("scale", self.scale, least=0)

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        factor = jnp.ones_like(progress)
        for boundary in self.boundaries:
            factor = jnp.where(progress >= boundary, self.scale * factor, factor)
        return factor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restarts(Decaying):
    """Cosines one after another, each from the peak: SGDR (Loshchilov and Hutter, 1608.03983)."""

    label: ClassVar[str] = "restarts"

    cycles: int = 3  # cosines in what follows the warm-up
    growth: float = 2.0  # length of each over that of the one before: the paper's T_mult

    def validate(self) -> None:
        super().validate()
        check_integer("cycles", self.cycles, least=1, most=1000)
        check_number("growth", self.growth, least=0.01, most=100)

    def fall(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        lengths = [self.growth**n for n in range(self.cycles)]
        ends = [end / sum(lengths) for end in itertools.accumulate(lengths)]
        begins = jnp.asarray([0.0, *ends[:-1]], progress.dtype)
        cycle = jnp.sum(progress >= begins[1:])
        length = jnp.asarray(lengths, progress.dtype)[cycle] / sum(lengths)
        return half_cosine(jnp.minimum((progress - begins[cycle]) / length, 1.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """Up by half a cosine and down by another (Smith and Topin, arXiv 1708.07120).

    As optax.cosine_onecycle_schedule; torch's OneCycleLR has its peak and its end one step sooner.
    """

    label: ClassVar[str] = "one-cycle"

    begin: float = 0.04  # fraction of the peak at the begin
    rise_fraction: float = 0.3  # part of the run on the way up
    final: float = 4e-6  # fraction of the peak at the end

    def validate(self) -> None:
        super().validate()
        if self.warmup_steps:
            told = "must be 0: the rise is a part of the cycle (rise_fraction)"
            raise FieldError("warmup_steps", self.warmup_steps, told)
        check_number("begin", self.begin, least=0, most=1)
        check_number("rise_fraction", self.rise_fraction, above=0, below=1)
        check_number("final", self.final, least=0, most=1)

    def shape(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        risen = jnp.minimum(progress / self.rise_fraction, 1.0)
        fallen = jnp.maximum(progress - self.rise_fraction, 0.0) / (1.0 - self.rise_fraction)
        up = 1.0 - (1.0 - self.begin) * half_cosine(risen)
        down = self.final + (1.0 - self.final) * half_cosine(fallen)
        return jnp.where(progress < self.rise_fraction, up, down)


def half_cosine(progress: Float[Array, ""]) -> Float[Array, ""]:
    """From 1 to 0 without a corner at either end."""
    return 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
