"""The real train step compiled for TPUs that are not there, and what the compiled program says.

libtpu compiles without a TPU. Nothing is allocated but the program itself, no device is touched,
and no other process's libtpu is in the way.
"""

import importlib.util
import os
import re
import time
from typing import Any, NamedTuple

import jax

from lmjax.chips import Topology
from lmjax.collectives import Collective, collectives
from lmjax.data import Batch
from lmjax.describe import tree_bytes
from lmjax.errors import InputError
from lmjax.experiment import Experiment
from lmjax.hlo import Instruction, Program, kernel_name
from lmjax.mesh import make_mesh, whole
from lmjax.models.kernels import splash_block
from lmjax.parallel import abstract_state, check_divides, first_knobs, jit_step

# Before libtpu is loaded, which otherwise asks Google's metadata server what machine this is,
# writes logs to /tmp and the terminal, and locks out every other process.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
MISSING = (
    "plan: compiling for TPUs needs libtpu, which is not installed here: "
    "`uv sync --extra aot` (Linux, x86-64), or give a chip that is analysed only, such as h100:64"
)
FULL = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm")
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SPLASH = re.compile(r"splash_\w*?(fwd|dkv|dq)")
PRODUCTS = {"fwd": 2, "dkv": 4, "dq": 3}  # of queries with keys, or alike, in each of its kernels


class Memory(NamedTuple):
    """Bytes on one chip, as the compiler lays them out."""

    arguments: int
    outputs: int
    aliased: int  # outputs that take the place of arguments
    temporary: int
    code: int

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs - self.aliased + self.temporary + self.code


class Compiled(NamedTuple):
    """What the program of one chip and one step amounts to."""

    devices: list[Any]  # of the mesh, in its order
    state: int  # bytes of the train state on each
    notes: dict[str, str]  # what was decided for these devices: topic -> what and why
    seconds: float  # that it took to compile
    needed: int = 0  # bytes, where the compiler found that it does not fit
    memory: Memory | None = None  # None = it does not fit
    program: Program | None = None  # None = the compiler cannot write it down, or it does not fit

    @property
    def flops(self) -> int:
        """Of products and kernels, with all turns of all loops."""
        return self.program.flops + kernel_flops(self.program) if self.program else 0

    @property
    def collectives(self) -> list[Collective]:
        return collectives(self.program) if self.program else []


def devices_of(topology: Topology) -> list[Any]:
    """Devices to compile for; raises InputError where libtpu is missing or knows no such torus."""
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(MISSING)
    from jax.experimental import topologies

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if topology.chips == topology.slices:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(topology.name, "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        told = str(error).splitlines()[0].rpartition(": ")[2]
        raise InputError(f"--topology {topology.name!r}: libtpu has no such one: {told}") from None
    return list(found.devices)


def compile_step(experiment: Experiment, batch: Batch, topology: Topology) -> Compiled:
    """The train step of an experiment on a topology. `batch` is for its shapes."""
    mesh = make_mesh(experiment.parallel, devices_of(topology))
    roles, abstract = abstract_state(experiment, batch, mesh)
    check_divides(experiment, batch, roles, mesh)
    step = jit_step(experiment, batch, mesh, roles, abstract)
    knobs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole(mesh)),
        first_knobs(experiment),
    )
    begun = time.monotonic()
    found = Compiled([*mesh.devices.flat], tree_bytes(abstract).each, step.notes, seconds=0.0)
    try:
        made = step.trace(knobs).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        full = FULL.search(str(error))
        if full is None:
            raise
        needed = round(float(full[1]) * UNITS[full[2]])
        return found._replace(seconds=time.monotonic() - begun, needed=needed)
    told = made.memory_analysis()
    return found._replace(
        seconds=time.monotonic() - begun,
        memory=Memory(
            told.argument_size_in_bytes,
            told.output_size_in_bytes,
            told.alias_size_in_bytes,
            told.temp_size_in_bytes,
            told.generated_code_size_in_bytes,
        ),
        program=_written(made),
    )


def _written(made: Any) -> Program | None:
    """The program's text; None where the compiler cannot write it, as happens on v5p."""
    try:
        text = made.as_text()
    except jax.errors.JaxRuntimeError:
        return None
    return Program(text) if text else None


def kernel_flops(program: Program) -> int:
    """Of the kernels that we know: splash attention skips the blocks that a causal mask hides."""
    total = 0
    for one, around, times in program.executed():
        if one.target == "tpu_custom_call" and (phase := SPLASH.search(kernel_name(one))):
            given = [x for name in one.operands for x in around[name].results]
            *rows, length, width = max(given, key=lambda x: x.size).shape
            seen = length * (length + splash_block(length)) // 2
            for size in rows:
                seen *= size
            total += times * 2 * PRODUCTS[phase[1]] * seen * width
    return total


def whole_logits(program: Program, tokens: int, columns: int) -> list[str]:
    """The float32 arrays that hold the logits of so many tokens, in so many columns."""
    return sorted(
        {
            f"{x.dtype}[{','.join(map(str, x.shape))}]"
            for one, _, _ in program.executed()
            for x in one.results
            if _is_made(one) and x.dtype == "f32" and columns in x.shape
            if x.size >= tokens * columns
        }
    )


def _is_made(one: Instruction) -> bool:
    return one.opcode not in ("parameter", "tuple", "get-tuple-element", "while", "bitcast")
