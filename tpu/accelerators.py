"""What the name of an accelerator says: its chips, its workers, and the system image it needs."""

from typing import NamedTuple

from lmjax.errors import FieldError, unknown

# The number in a name counts TensorCores up to v5p's, two to a chip, and chips from then on; the
# images are those of Cloud TPU's page on software versions for JAX.


class Generation(NamedTuple):
    """One line of TPUs."""

    per_chip: int  # how many of what its names count make a chip
    runtime: str
    alone: int = 4  # chips of the largest slice that has one worker; in larger ones each has 4


CHIPS_OF_A_WORKER = 4
GENERATIONS = {
    "v2": Generation(2, "tpu-ubuntu2204-base"),
    "v3": Generation(2, "tpu-ubuntu2204-base"),
    "v4": Generation(2, "tpu-ubuntu2204-base"),
    "v5litepod": Generation(1, "v2-alpha-tpuv5-lite", alone=8),
    "v5p": Generation(2, "v2-alpha-tpuv5"),
    "v6e": Generation(1, "v2-alpha-tpuv6e", alone=8),
}
SPOKEN = {"v5e": "v5litepod", "v5lite": "v5litepod"}  # names that the documentation uses


def generation(accelerator: str) -> Generation:
    """Of a name such as v5litepod-16; raises InputError with the nearest known one."""
    line, _, size = accelerator.partition("-")
    if line in SPOKEN:
        allowed = f"gcloud calls it {SPOKEN[line]}-{size or 8}"
        raise FieldError("accelerator", accelerator, allowed)
    if line not in GENERATIONS:
        raise unknown("accelerator", line, GENERATIONS)
    return GENERATIONS[line]


def chips(accelerator: str) -> int:
    """How many chips a name asks for, which is what is paid for."""
    per_chip = generation(accelerator).per_chip
    size = accelerator.partition("-")[2]
    if not (size.isascii() and size.isdigit()) or int(size) < 1 or int(size) % per_chip:
        unit = "chips" if per_chip == 1 else "cores, of which a chip has 2"
        allowed = f"must end in a number of {unit}, such as {accelerator.partition('-')[0]}-8"
        raise FieldError("accelerator", accelerator, allowed)
    return int(size) // per_chip


def workers(accelerator: str) -> int:
    """How many hosts a slice of that name has, each with a process of the run."""
    count = chips(accelerator)
    return 1 if count <= generation(accelerator).alone else -(-count // CHIPS_OF_A_WORKER)
