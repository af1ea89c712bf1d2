"""How cells are computed: three strategies behind one interface, each one program for a variant.

sequential  the trainer's own jitted step, called from the host for each update of one cell
loop        the same step in a loop on the device: one call makes many updates of one cell
lanes       the loop, vectorised over LANES cells; where fewer are to be run, the last fills up

Seed and learning rate are arguments of the program, so no cell compiles anew. `sequential` and
`loop` give the bits of `lmjax train`; `lanes` gives others, but always the same ones: the width is
part of the program, so that a lane does not depend on how many cells there are or on what the
others compute. With a width as free as the grid it would (tests/test_compare_execution.py).

A loop over cells (lax.map) is as fast as one over updates, but needs several cells at once, which
tuning does not have: there each trial waits for the one before.
"""

import collections
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from lmjax.compare.feed import Host
from lmjax.data import Batch
from lmjax.experiment import Experiment
from lmjax.mesh import Parallel, laid_out, make_mesh, whole
from lmjax.metrics import Mean, Metrics, pack
from lmjax.parallel import abstract_state, compile_program, make_place
from lmjax.platforms import compiler_options
from lmjax.room import check_state
from lmjax.state import TrainState
from lmjax.step import Knobs, make_eval_step, make_train_step

LANES = 8  # cells of one call of `lanes`; part of their bits

Name = Literal["sequential", "loop", "lanes"]
Losses = Float32[np.ndarray, "lanes updates"]
traced: collections.Counter[str] = collections.Counter()  # programs of each strategy, for a test


class Strategy(NamedTuple):
    """How all cells of a comparison are computed."""

    name: Name
    updates: int  # most of them in one call
    workers: int  # calls under way at once, each of other cells

    @property
    def lanes(self) -> int:
        """Cells of one call."""
        return LANES if self.name == "lanes" else 1


class Carry(NamedTuple):
    """What cells carry from one call to the next; with a leading axis of lanes under `lanes`."""

    state: TrainState
    previous: Batch | None  # the batch before, where the optimizer asks for it


class Sequential:
    """One variant: how its cells, one at a time, are begun, moved on and looked at."""

    def __init__(self, experiment: Experiment, batch: Batch, strategy: Strategy):
        self.experiment, self.strategy = experiment, strategy
        self.mesh = _mesh(experiment, strategy)
        self.program = compile_program(experiment, batch, self.mesh)
        check_state(self.program.abstract_state)
        roles, self.abstract = abstract_state(experiment, batch, self.mesh)
        self.step = make_train_step(experiment, roles)  # pure
        self._asked = experiment.optimizer.needs_previous_batch
        self._loss = self.program.metric_names.index("loss")
        self._init = Once(self.program.init)
        self._step = Once(self.program.train_step)
        self._evaluate = Once(self.program.eval_step)

    def knobs(self, each: Sequence[Knobs]) -> Any:
        """The knobs of each lane, on the device."""
        return jax.device_put(each[0], whole(self.mesh))

    def join(self, pieces: Sequence[Any]) -> Any:
        """The pieces of the lanes' own seeds as one argument."""
        return pieces[0]

    def start(self, each: Sequence[Knobs]) -> Carry:
        """Step 0, from the seeds."""
        return Carry(self._init(jax.device_put(each[0], whole(self.mesh))), None)

    def advance(self, carry: Carry, piece: Any, count: int, knobs: Any) -> tuple[Carry, Any]:
        """`count` updates, under way; and what `read` reads. The carry may not be used again."""
        (state, previous), told = carry, []
        for batch in piece[:count]:
            before = (batch if previous is None else previous) if self._asked else None
            state, packed = self._step(state, batch, before, knobs)
            told.append(packed)
            previous = batch
        return Carry(state, previous), told

    def read(self, told: Any, count: int) -> Losses:
        """The training loss of each update; waits for it."""
        return _losses(np.stack([np.asarray(x) for x in told])[None], self._loss)

    def evaluate(self, carry: Carry, batch: Batch) -> Metrics:
        """The metrics of a held-out batch, under way."""
        return self._evaluate(carry.state, batch)

    def metrics(self, found: Metrics, lane: int) -> Metrics:
        """Those of one lane, on the host."""
        return found

    def state(self, carry: Carry, lane: int) -> TrainState:
        """That of one cell."""
        return carry.state

    def lowered(self, carry: Carry, piece: Any, knobs: Any) -> Any:
        """The program of `advance`, to ask for its memory."""
        return self.program.trace_step().lower()


class Loop(Sequential):
    """One cell, many updates a call."""

    def __init__(self, experiment: Experiment, batch: Batch, strategy: Strategy):
        super().__init__(experiment, batch, strategy)
        updates = make_updates(self.step, len(self.program.metric_names), self._asked)

        def counted(*args: Any) -> Any:
            traced[strategy.name] += 1
            return self._vectorised(updates)(*args)

        options = compiler_options(self.mesh.devices.flat[0].platform, 1)
        self._compiled = jax.jit(counted, donate_argnums=0, compiler_options=options)
        self._call = Once(self._compiled)
        self._nothing = None
        if self._asked:
            self._nothing = {name: np.zeros(x.shape, x.dtype) for name, x in batch.items()}

    def _vectorised(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def start(self, each: Sequence[Knobs]) -> Carry:
        state = super().start(each).state
        return Carry(state, jax.device_put(self._nothing, self.mesh.devices.flat[0]))

    def advance(self, carry: Carry, piece: Any, count: int, knobs: Any) -> tuple[Carry, Any]:
        return self._call(carry, piece, np.int32(count), knobs)

    def read(self, told: Any, count: int) -> Losses:
        return _losses(np.asarray(told)[None, :count], self._loss)

    def lowered(self, carry: Carry, piece: Any, knobs: Any) -> Any:
        return self._compiled.lower(carry, piece, np.int32(1), knobs)


class Lanes(Loop):
    """LANES cells, many updates a call."""

    def __init__(self, experiment: Experiment, batch: Batch, strategy: Strategy):
        super().__init__(experiment, batch, strategy)
        self._evaluate = Once(jax.jit(jax.vmap(make_eval_step(experiment), (0, None))))

    def _vectorised(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return jax.vmap(function, in_axes=(0, 0, None, 0))

    def knobs(self, each: Sequence[Knobs]) -> Any:
        return jax.device_put(jax.tree.map(lambda *x: np.stack(x), *each))

    def join(self, pieces: Sequence[Any]) -> Any:
        return _stacked(*pieces)

    def start(self, each: Sequence[Knobs]) -> Carry:
        return _stacked(*(super(Lanes, self).start([own]) for own in each))

    def read(self, told: Any, count: int) -> Losses:
        return _losses(np.asarray(told)[:, :count], self._loss)

    def metrics(self, found: Metrics, lane: int) -> Metrics:
        return {
            name: Mean(*(float(np.asarray(x)[lane]) for x in mean)) for name, mean in found.items()
        }

    def state(self, carry: Carry, lane: int) -> TrainState:
        return jax.tree.map(lambda x: x[lane], carry.state)


RUNNERS: dict[Name, type[Sequential]] = {"sequential": Sequential, "loop": Loop, "lanes": Lanes}


class Once:
    """A jitted function that several threads may call: the first call, which compiles, alone."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._lock = threading.Lock()
        self._called = False

    def __call__(self, *args: Any) -> Any:
        if self._called:
            return self._function(*args)
        with self._lock:
            result = self._function(*args)
            self._called = True
            return result


def make_updates(step: Callable[..., Any], metrics: int, asked: bool) -> Callable[..., Any]:
    """The function (carry, batches [updates, ...], count, knobs) -> (carry, packed metrics).

    Makes the first `count` updates, which is traced: one program serves pieces of all lengths.
    """

    def updates(
        carry: Carry, batches: Batch, count: Any, knobs: Knobs
    ) -> tuple[Carry, Float32[Array, "updates m 2"]]:
        size = len(jax.tree.leaves(batches)[0])

        def body(number: Any, held: tuple[Carry, Array]) -> tuple[Carry, Array]:
            (state, previous), told = held
            batch = jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, number, keepdims=False), batches
            )
            if asked:  # the very first batch has none before it and stands in for it
                begins = state.step == 0
                previous = jax.tree.map(lambda b, p: jnp.where(begins, b, p), batch, previous)
            state, found = step(state, batch, previous, knobs)
            return Carry(state, batch if asked else None), told.at[number].set(pack(found))

        return jax.lax.fori_loop(0, count, body, (carry, jnp.zeros((size, metrics, 2))))

    return updates


def knobs_of(rate: float, seed: int) -> Knobs:
    """The knobs of a cell, on the host."""
    return Knobs(np.asarray(seed, np.uint32), np.asarray(rate, np.float32))


def make_placer(experiment: Experiment, strategy: Strategy) -> Callable[[Host], Any]:
    """From host arrays [updates, batch, ...] to a piece on the device."""
    if strategy.name != "sequential":
        return lambda host: jax.device_put(_padded(host, strategy.updates), jax.devices()[0])
    mesh = _mesh(experiment, strategy)
    place = make_place(laid_out(mesh, experiment.task.batch_axes), experiment.batch_size)
    return lambda host: place({name: x.reshape(-1, *x.shape[2:]) for name, x in host.items()})


def make_held_out_placer(experiment: Experiment, strategy: Strategy) -> Callable[[Batch], Batch]:
    """From a held-out batch on the host to one on the device."""
    mesh = _mesh(experiment, strategy)
    place = make_place(laid_out(mesh, experiment.task.batch_axes), experiment.batch_size)
    return lambda host: place(host)[0]


def _mesh(experiment: Experiment, strategy: Strategy) -> Any:
    """As in `lmjax train`; what makes many updates a call does so on the first device."""
    if strategy.name == "sequential":
        return make_mesh(experiment.parallel)
    return make_mesh(Parallel(), jax.devices()[:1])


def _padded(host: Host, updates: int) -> Host:
    """With rows of zeros, which no call looks at, so that all pieces have one shape."""

    def fill(x: np.ndarray) -> np.ndarray:
        missing = updates - len(x)
        return np.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)]) if missing else x

    return {name: fill(x) for name, x in host.items()}


@jax.jit
def _stacked(*trees: Any) -> Any:
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def _losses(packed: Float32[np.ndarray, "lanes updates m 2"], loss: int) -> Losses:
    with np.errstate(all="ignore"):  # of a run that diverged
        return packed[:, :, loss, 0] / packed[:, :, loss, 1]


class Programs:
    """The variants of a comparison, each compiled when it is first asked for.

    `made` are those that have been compiled already.
    """

    def __init__(
        self,
        experiments: dict[str, Experiment],
        batches: dict[str, Batch],
        strategy: Strategy,
        made: dict[str, Sequential],
    ):
        self._experiments, self._batches, self.strategy = experiments, batches, strategy
        self._made = {k: runner for k, runner in made.items() if runner.strategy == strategy}
        self._lock = threading.Lock()

    def __getitem__(self, label: str) -> Sequential:
        with self._lock:
            if label not in self._made:
                runner = RUNNERS[self.strategy.name]
                self._made[label] = runner(
                    self._experiments[label], self._batches[label], self.strategy
                )
            return self._made[label]
