"""`lmjax plan`: how an experiment would go on chips that are not here.

For TPUs its real train step is compiled (lmjax/ahead.py); for other chips only what follows from
shapes is told, which is said. Every speed is static: nothing is measured.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from lmjax import describe
from lmjax.ahead import Compiled, compile_step, whole_logits
from lmjax.answer import check_writable, write_json
from lmjax.chips import Topology, read_topology
from lmjax.collectives import seconds as link_seconds
from lmjax.describe import Description
from lmjax.errors import FieldError, InputError, check_number
from lmjax.experiment import Experiment
from lmjax.flags import natural, take
from lmjax.parts import replace
from lmjax.roles import MESH_AXES
from lmjax.state import parameter_count

CHINCHILLA = 20  # tokens for each parameter, about the optimum of arXiv 2203.15556
PRODUCTS = 0.8  # of the peak, that products of matrices reach on a TPU


class Prediction(NamedTuple):
    """Seconds of one step on each chip, if each resource did as much as it can. Static."""

    compute: float  # all operations at the peak
    memory: float  # all bytes of HBM
    apart: float  # collectives that run beside other work
    waiting: float  # collectives that nothing runs beside
    units: int  # tokens or examples in a step

    @property
    def exposed(self) -> float:
        """Communication that no computation hides."""
        return self.waiting + max(0.0, self.apart - self.compute)

    @property
    def seconds(self) -> float:
        """The longest of them, products at what they reach."""
        return max(self.compute / PRODUCTS, self.memory, self.exposed)

    @property
    def in_turn(self) -> float:
        """The same where exposed communication waits for the rest, as the program has it."""
        return max(self.compute / PRODUCTS, self.memory) + self.exposed


class Plan(NamedTuple):
    """All that `lmjax plan` tells."""

    topology: Topology
    description: Description
    tokens: float  # to train on; or examples
    price: float | None  # of a chip for an hour
    compiled: Compiled | None  # None = nothing was compiled for such a chip

    @property
    def units(self) -> int:
        """Tokens or examples in a step."""
        return self.description.experiment.batch_size * self.description.length

    @property
    def useful(self) -> float:
        """FLOP that the model needs of each chip in a step: under a causal mask, half of what full
        attention takes."""
        d = self.description
        each = d.costs["counted"]
        if "full" in d.costs:
            each -= d.costs["full"] - d.costs["causal"]
        return each * self.units / self.topology.chips

    @property
    def prediction(self) -> Prediction | None:
        """None where no program says what it does."""
        if self.compiled is None or self.compiled.program is None:
            return None
        chip, spent = self.topology.chip, {True: 0.0, False: 0.0}
        for one in self.compiled.collectives:
            spent[one.apart] += link_seconds(one, self.topology, self.compiled.devices)
        return Prediction(
            self.compiled.flops / chip.peak,
            self.compiled.program.traffic / chip.bandwidth,
            spent[True],
            spent[False],
            self.units,
        )

    @property
    def logits(self) -> list[str]:
        """Float32 arrays as large as all logits of a chip, which the loss should never hold."""
        model, mesh = self.description.experiment.task.model, self.description.mesh
        if self.compiled is None or self.compiled.program is None:
            return []
        columns = getattr(model, "table_rows", 0) // mesh.shape["tensor"]
        micro = self.units // self.description.experiment.accumulation
        shares = mesh.shape["data"] * mesh.shape["fsdp"] * mesh.shape["sequence"]
        return whole_logits(self.compiled.program, micro // shares, columns)


def plan(
    experiment: Experiment,
    topology: Topology,
    tokens: float | None = None,
    price: float | None = None,
) -> Plan:
    """The plan; raises InputError where no run of it could begin there."""
    if tokens is not None:
        check_number("--tokens", tokens, above=0)
    if price is not None:
        check_number("--price", price, least=0)
    experiment = spread(experiment, topology)
    described = describe.describe(experiment)
    if tokens is None:
        tokens = CHINCHILLA * parameter_count(described.state.params)
    compiled = None
    if topology.compiles:
        compiled = compile_step(experiment, topology)
    return Plan(topology, described, tokens, price, compiled)


def spread(experiment: Experiment, topology: Topology) -> Experiment:
    """The experiment with as many copies of the state as the chips are for."""
    parallel, chips = experiment.parallel, topology.chips
    inner = math.prod(getattr(parallel, name) for name in MESH_AXES if name != "data")
    data = parallel.data or chips // inner
    if data * inner != chips:
        sizes = " x ".join(f"{name} {getattr(parallel, name)}" for name in MESH_AXES)
        told = f"must multiply to the {chips:,} chips of {topology} (data 0 = what is left)"
        raise FieldError("parallel", sizes, told)
    if data % topology.slices:
        allowed = f"must be a multiple of the {topology.slices} slices, between which copies lie"
        raise FieldError("parallel.data", data, allowed)
    return replace(experiment, "parallel", dataclasses.replace(parallel, data=data))


def run(words: Sequence[str], parse: Any) -> None:
    """`lmjax plan`; `parse` reads a value by its type."""
    from lmjax import catalog, overrides, score_card

    if {"-h", "--help"} & set(words):
        print("usage: lmjax plan NAME|PATH.py --topology TOPOLOGY [OVERRIDES]\n")
        print("\n".join(f"  {flag:12s}{value}" for flag, value in FLAGS.items()))
        return
    if not words or words[0].startswith("-"):
        raise InputError("plan needs the name of an experiment, and --topology (see lmjax --help)")
    given, rest = {}, [*words[1:]]
    for flag, value in FLAGS.items():
        given[flag], rest = take(rest, flag, value)
    if given["--topology"] is None:
        raise InputError("plan needs --topology, such as v5p:4x4x4, v5e:16x16 or h100:8")
    numbers = {
        flag: None if given[flag] is None else _number(flag, given[flag])
        for flag in ("--tokens", "--price")
    }
    slices = 1 if given["--slices"] is None else natural(given["--slices"])
    if not slices:
        raise InputError(f"--slices {given['--slices']!r}: must be a whole number >= 1")
    check_writable(given["--json"])
    topology = read_topology(given["--topology"], slices)
    experiment = overrides.apply(catalog.find(words[0]), rest, parse)
    made = plan(experiment, topology, numbers["--tokens"], numbers["--price"])
    print(score_card.to_text(made))
    write_json(given["--json"], score_card.to_json(made))


FLAGS = {
    "--topology": "a topology, such as v5p:4x4x4",
    "--slices": "how many slices",
    "--tokens": "how many tokens",
    "--price": "the price of a chip for an hour",
    "--json": "a path",
}


def _number(flag: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InputError(f"{flag} {word!r}: must be a number") from None
