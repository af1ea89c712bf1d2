"""The real train step compiled for TPUs that are not there, and what the compiled program says.

libtpu compiles without a TPU. It does so in a process of its own, which is ended as soon as the
optimised program and the places of its buffers are written: what is left, making machine code of
it, tells nothing and takes 19 parts of 20 (33 s of a small step's 35).
"""

import importlib.util
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lmjax import catalog
from lmjax.chips import Topology
from lmjax.collectives import Collective, collectives
from lmjax.data import Batch
from lmjax.describe import tree_bytes
from lmjax.errors import InputError, RunError
from lmjax.experiment import Experiment
from lmjax.hlo import Instruction, Program, kernel_name
from lmjax.mesh import make_mesh, whole
from lmjax.models.kernels import splash_block
from lmjax.parallel import abstract_state, check_divides, first_knobs, jit_step

# Without these, libtpu asks Google's metadata server what machine this is, writes logs to /tmp and
# the terminal, and locks out every other process; and JAX would look for a TPU here.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
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
    "`uv run --isolated --extra aot lmjax plan ...` (Linux, x86-64), or give a chip that is "
    "analysed only, such as h100:64"
)
CHILD = "from lmjax.ahead import child; child()"
ASKED, TOLD, REFUSED = "experiment.pickle", "found.pickle", "refused.pickle"  # files between them
OPTIMISED, REPORT = "*after_buffer_assignment.txt", "*memory-usage-report.txt"  # libtpu's
POLL = 0.2  # seconds
HELD = re.compile(r"color=0\)\s+Total bytes: (\d+)")  # in HBM, arguments and all
FULL = re.compile(  # two ways in which libtpu says what was needed
    r"(?:Used |HLO temporaries \()([\d.]+)([KMGT]?)\)? (?:of|exceeds available HBM)"
)
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SPLASH = re.compile(r"splash_\w*?(fwd|dkv|dq)")
PRODUCTS = {"fwd": 2, "dkv": 4, "dq": 3}  # of queries with keys, or alike, in each of its kernels


class Place(NamedTuple):
    """Where a device of the mesh stands."""

    coords: tuple[int, ...]
    slice_index: int


class Compiled(NamedTuple):
    """What the program of one chip and one step amounts to."""

    devices: list[Place]  # of the mesh, in its order
    state: int  # bytes of the train state on each
    notes: dict[str, str]  # what was decided for these devices: topic -> what and why
    seconds: float = 0.0  # that it took
    needed: int = 0  # bytes of HBM on each chip, at its peak
    program: Program | None = None  # None = it does not fit

    @property
    def flops(self) -> int:
        """Of products and kernels, with all turns of all loops."""
        return self.program.flops + kernel_flops(self.program) if self.program else 0

    @property
    def collectives(self) -> list[Collective]:
        return collectives(self.program) if self.program else []


def compile_step(experiment: Experiment, topology: Topology) -> Compiled:
    """The train step of an experiment on a topology; raises InputError for what cannot be."""
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(MISSING)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name, open(Path(name) / "stderr", "w+") as errors:
        folder = Path(name)
        asked = (catalog.files(), topology), pickle.dumps(experiment)
        (folder / ASKED).write_bytes(pickle.dumps(asked))
        running = subprocess.Popen(
            [sys.executable, "-c", CHILD, name],
            env={**os.environ, **ENVIRONMENT},
            stdout=errors,
            stderr=errors,
        )
        try:
            while running.poll() is None and not _written(folder):
                time.sleep(POLL)
        finally:
            running.kill()
            running.wait()
        return _read(folder, errors)._replace(seconds=time.monotonic() - begun)


def _written(folder: Path) -> bool:
    """Whether the whole program is there; what is written last is its last brace."""
    found = [*folder.glob(OPTIMISED)]
    return bool(found) and found[0].read_text().rstrip().endswith("}")


def _read(folder: Path, errors: Any) -> Compiled:
    """What the child has left."""
    if (folder / REFUSED).exists():
        told = pickle.loads((folder / REFUSED).read_bytes())
        if full := FULL.search(told):
            found = pickle.loads((folder / TOLD).read_bytes())
            return found._replace(needed=round(float(full[1]) * UNITS[full[2]]))
        raise InputError(told)
    report, text = [*folder.glob(REPORT)], [*folder.glob(OPTIMISED)]
    if not report or not text:
        errors.seek(0)
        last = (errors.read().strip().splitlines() or ["nothing"])[-1]
        raise RunError(f"plan: the compiler ended without a program; it said: {last}")
    held = HELD.search(report[0].read_text())
    if held is None:
        raise RunError("plan: the compiler's memory report has a form that is not known here")
    found: Compiled = pickle.loads((folder / TOLD).read_bytes())
    return found._replace(needed=int(held[1]), program=Program(text[0].read_text()))


def child() -> None:
    """The process that loads libtpu."""
    folder = Path(sys.argv[1])
    (files, topology), experiment = pickle.loads((folder / ASKED).read_bytes())
    for file in files:  # whose classes the experiment is made of
        catalog.find(file)
    try:
        _compile(pickle.loads(experiment), topology, folder)
    except (InputError, jax.errors.JaxRuntimeError) as error:
        (folder / REFUSED).write_bytes(pickle.dumps(str(error)))


def _compile(experiment: Experiment, topology: Topology, folder: Path) -> None:
    """Compile the step, having told what is known of it before."""
    batch: Batch = experiment.data.shapes(experiment.batch_size)
    mesh = make_mesh(experiment.parallel, devices_of(topology))
    roles, abstract = abstract_state(experiment, batch, mesh)
    check_divides(experiment, batch, roles, mesh)
    step = jit_step(experiment, batch, mesh, roles, abstract)
    places = [Place(tuple(x.coords), getattr(x, "slice_index", 0) or 0) for x in mesh.devices.flat]
    told = Compiled(places, tree_bytes(abstract).each, step.notes)
    (folder / TOLD).write_bytes(pickle.dumps(told))
    knobs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole(mesh)),
        first_knobs(experiment),
    )
    dump = {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}
    step.trace(knobs).lower().compile(compiler_options=dump)


def devices_of(topology: Topology) -> list[Any]:
    """Devices to compile for; raises InputError where libtpu knows no such torus."""
    from jax.experimental import topologies

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
