"""What lies where on a mesh; checkpoints made on one mesh and restored on others."""

import dataclasses
import itertools
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, Mesh, PartitionSpec

from lmjax import cli
from lmjax.errors import FieldError
from lmjax.mesh import Parallel, make_mesh, parameter_spec, state_shardings, uneven
from lmjax.roles import ACTIVATIONS, AXES, MESH_AXES, Leaf
from lmjax.state import TrainState

ROOT = Path(__file__).parents[1]
ONES = {"fsdp": 1, "sequence": 1, "tensor": 1}


def abstract_mesh(data=1, fsdp=1, sequence=1, tensor=1) -> AbstractMesh:
    sizes = (data, fsdp, sequence, tensor)
    return AbstractMesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 4)


QKV = Leaf((2, 32, 8, 3, 4), ("layers", "embed", "heads", "qkv", "head_dim"))


@pytest.mark.parametrize(
    ("leaf", "spec"),
    [
        (QKV, (None, "fsdp", "tensor", None, None)),
        (Leaf((256, 32), ("vocab", "embed")), ("tensor", "fsdp")),
        (Leaf((2, 128), ("layers", "mlp")), (None, "tensor")),  # a bias of hidden units
        (Leaf((2, 32), ("layers", "embed")), (None, None)),  # vectors are not cut over fsdp
        (Leaf((257, 32), ("vocab", "embed")), (None, "fsdp")),  # 257 does not divide
        (Leaf((64, 64), ("mlp", "mlp")), ("tensor", None)),  # an axis of the mesh serves once
        (Leaf((3, 3, 4, 8), ("height", "width", "conv_in", "conv_out")), (None,) * 3 + ("fsdp",)),
    ],
)
def test_the_table_says_where_a_parameter_lies(leaf, spec):
    assert parameter_spec(leaf, abstract_mesh(fsdp=4, tensor=2)) == PartitionSpec(*spec)


def test_every_name_in_the_tables_is_an_axis_of_the_mesh():
    assert {axis.along for axis in AXES.values()} <= {"", *MESH_AXES}
    assert {along for axes in ACTIVATIONS.values() for along in axes} == set(MESH_AXES)


def test_what_stays_whole_is_told():
    roles = {"table": Leaf((257, 32), ("vocab", "embed")), "qkv": QKV}
    assert uneven(roles, abstract_mesh(fsdp=4, tensor=2)) == ["table: vocab 257 by tensor 2"]
    assert uneven(roles, abstract_mesh(fsdp=4)) == []


def test_optimizer_state_lies_as_its_parameter():
    """By the end of its path and its shape: factors and counters are whole."""

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, np.float32)

    roles = {"mlp": {"in": Leaf((32, 64), ("embed", "mlp"))}, "in": Leaf((32,), ("embed",))}
    params = {"mlp": {"in": shape(32, 64)}, "in": shape(32)}
    opt_state = {"m": params, "rows": {"mlp": {"in": shape(32)}}, "count": shape()}
    abstract = TrainState(shape(), params, {}, opt_state)
    held = state_shardings(abstract_mesh(fsdp=4, tensor=2), roles, abstract).opt_state
    assert held["m"]["mlp"]["in"].spec == PartitionSpec("fsdp", "tensor")
    assert held["m"]["in"].spec == PartitionSpec(None)
    assert held["rows"]["mlp"]["in"].spec == held["count"].spec == PartitionSpec()


@pytest.mark.parametrize("words", ["fsdp 2", "tensor 3", "data 2", "data 2 --parallel.fsdp 2"])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(words, capsys, tmp_path):
    command = f"train digits_fcn --parallel.{words} --workdir {tmp_path / 'run'}"
    assert cli.main(command.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith("lmjax: parallel = ")
    assert "must multiply to the 1 devices" in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


@dataclasses.dataclass(frozen=True)
class Chip:
    """A stand-in for a chip of one of several slices, of which a mesh asks no more than this."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str
    core_on_chip: int = 0
    device_kind: str = "stand-in"
    process_index: int = 0


def two_slices(platform: str = "tpu") -> list[Chip]:
    """Squares of four chips, of which one of each comes in turn."""
    return [Chip(n, n % 2, (n // 2 % 2, n // 4, 0), platform) for n in range(8)]


def slices_of_copies(mesh: Mesh) -> list[set[int]]:
    return [{chip.slice_index for chip in copy.flat} for copy in mesh.devices]


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
@pytest.mark.parametrize(
    "sizes", [{"fsdp": 4}, {"fsdp": 2}, {"fsdp": 2, "tensor": 2}, {"sequence": 4}, {}]
)
def test_slices_hold_whole_copies_of_the_state(platform, sizes):
    """Only the data axis crosses the slow network, in its outer part."""
    mesh = make_mesh(Parallel(**sizes), two_slices(platform))
    assert sorted(chip.id for chip in mesh.devices.flat) == list(range(8))
    assert dict(mesh.shape) == {"data": 8 // math.prod(sizes.values()), **ONES, **sizes}
    copies = slices_of_copies(mesh)
    half = len(copies) // 2
    assert copies == [{0}] * half + [{1}] * half


def test_chips_as_they_come_would_mix_slices():
    """The negative control."""
    chips = np.array(two_slices(), object).reshape(2, 4, 1, 1)
    assert slices_of_copies(Mesh(chips, MESH_AXES)) == [{0, 1}, {0, 1}]


def test_a_copy_of_the_state_may_span_hosts_of_gpus():
    """In the outer part of its axis."""
    mesh = make_mesh(Parallel(fsdp=8), two_slices("gpu"))
    assert [chip.slice_index for chip in mesh.devices.flat] == [0] * 4 + [1] * 4


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"fsdp": 4, "tensor": 2}])
def test_a_copy_of_the_state_that_would_span_slices_is_refused(sizes):
    with pytest.raises(FieldError, match="data = 1: must be a multiple of the 2 slices"):
        make_mesh(Parallel(**sizes), two_slices())


def torus(*sides: int, slices: int = 1) -> list[Chip]:
    """Slices of TPUs, each with as many chips as fill a box of these sides."""
    places = list(itertools.product(*(range(side) for side in sides)))
    return [
        Chip(number * len(places) + n, number, place, "tpu")
        for number in range(slices)
        for n, place in enumerate(places)
    ]


CUT = [  # meshes that take parts of a side, for which jax.make_mesh raises
    ((4, 4, 8), 1, {"fsdp": 64}),
    ((16, 16, 1), 1, {"fsdp": 64}),
    ((4, 4, 4), 1, {"fsdp": 32, "tensor": 2}),
    ((4, 4, 4), 2, {"fsdp": 32, "tensor": 2}),
    ((4, 4, 4), 2, {"fsdp": 8, "sequence": 2, "tensor": 2}),
]


@pytest.mark.parametrize(("sides", "slices", "sizes"), CUT)
def test_an_axis_may_take_a_part_of_a_side_of_the_torus(sides, slices, sizes):
    chips = torus(*sides, slices=slices)
    mesh = make_mesh(Parallel(**sizes), chips)
    assert sorted(chip.id for chip in mesh.devices.flat) == list(range(len(chips)))
    assert dict(mesh.shape) == {"data": len(chips) // math.prod(sizes.values()), **ONES, **sizes}
    assert all(len(found) == 1 for found in slices_of_copies(mesh))
    if mesh.shape["tensor"] == 2:
        pairs = mesh.devices.reshape(-1, 2)
        assert all(math.dist(one.coords, other.coords) == 1 for one, other in pairs)


WHOLE = [((4, 4, 4), {"fsdp": 64}), ((4, 4, 8), {"fsdp": 32}), ((16, 16, 1), {"fsdp": 16})]


@pytest.mark.parametrize(("sides", "sizes"), WHOLE)
def test_meshes_of_whole_sides_lie_as_jax_lays_them(sides, sizes):
    chips = torus(*sides)
    mesh = make_mesh(Parallel(**sizes), chips)
    laid = jax.make_mesh(tuple(mesh.shape.values()), MESH_AXES, devices=chips)
    assert mesh.devices.tolist() == laid.devices.tolist()


ODD = {
    "holes": [*torus(2, 2, 2)[:3], torus(2, 2, 2)[-1]],
    "slices of two sizes": torus(2, 2, 2, slices=2)[:12],
}


@pytest.mark.parametrize("chips", ODD.values(), ids=ODD)
def test_chips_that_no_mesh_can_be_laid_on_are_refused(chips):
    told = f"data {len(chips) // 2} x fsdp 2 .*these {len(chips)} chips, which span 2 x 2 x 2"
    with pytest.raises(FieldError, match=told):
        make_mesh(Parallel(fsdp=2), chips)


@pytest.mark.parametrize("sizes", [{"fsdp": 2, "tensor": 32}, {"fsdp": 10}])
def test_sides_that_jax_finds_no_parts_of_are_refused(sizes):
    """It ends with a TypeError for the first, and with a ValueError for the second."""
    with pytest.raises(FieldError, match="these 320 chips, which span 4 x 4 x 20"):
        make_mesh(Parallel(**sizes), torus(4, 4, 20))


def test_one_device_has_a_mesh_of_ones():
    assert dict(make_mesh(Parallel()).shape) == dict.fromkeys(MESH_AXES, 1)
    with pytest.raises(FieldError, match="tensor = 0"):
        Parallel(tensor=0).validate()


CODE = """
import dataclasses, json, sys
from pathlib import Path
from experiments import char_gpt
from lmjax import overrides, train
from lmjax.cli import parse_value
from lmjax.checkpoint import Checkpoints
from lmjax.errors import FieldError
from lmjax.mesh import Parallel, make_mesh
from lmjax.parallel import abstract_state, compile_program
from lmjax.state import state_digest

words = ("--task.model.depth 2 --task.model.unroll 1 --task.model.width 32 --task.model.heads 4 "
         "--steps 4 schedule:constant --batch-size 16 --task.showcase-length 0 --save-every 0 "
         "--data.sequence-length 16 --task.model.max-length 16")
ways = [Parallel(fsdp=8), Parallel(tensor=4, data=2), Parallel(sequence=2, fsdp=2), Parallel()]
base = overrides.apply(char_gpt.config(), words.split(), parse_value)
batch = base.data.load().batch(0, 0, base.batch_size)
told = {"saved": [], "restored": [], "resumed": [], "refused": []}
for number, way in enumerate(ways):
    at = f"{sys.argv[1]}/{number}"
    made = train.run(dataclasses.replace(base, parallel=way), at, quiet=True)
    told["saved"].append(made["state_digest"])
    for other in ways:
        checkpoints = Checkpoints(Path(at, "checkpoints"))
        _, abstract = abstract_state(base, batch, make_mesh(other))
        state, _ = checkpoints.restore(4, abstract)
        checkpoints.close()
        lies = [leaf.sharding for leaf in (state.params["embedding"],)]
        assert lies == [abstract.params["embedding"].sharding]
        told["restored"].append((number, state_digest(state)))
    onward = dataclasses.replace(base, parallel=ways[number - 1], steps=7)
    told["resumed"].append(train.run(onward, at, quiet=True)["validation"]["loss"])
for way in (Parallel(tensor=8), Parallel(sequence=8), Parallel(fsdp=8)):
    odd = dataclasses.replace(base, parallel=way, batch_size=12)
    odd = overrides.apply(odd, "--data.sequence-length 12".split(), parse_value)
    try:
        compile_program(odd, odd.data.load().batch(0, 0, 12))
    except FieldError as error:
        told["refused"].append(str(error))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(eight_devices, tmp_path_factory) -> dict:
    told, _ = eight_devices(CODE, str(tmp_path_factory.mktemp("runs")))
    return told


def test_a_checkpoint_of_one_mesh_restores_on_any_other_to_the_bit(told):
    saved = told["saved"]
    assert len(told["restored"]) == 16
    assert all(digest == saved[number] for number, digest in told["restored"])
    assert len(set(saved)) > 1  # the meshes sum in different orders, and the digest sees it


def test_a_run_goes_on_under_another_mesh(told):
    first, *others = told["resumed"]
    assert all(abs(loss - first) < 2e-5 for loss in others)


def test_sizes_that_do_not_divide_are_refused(told):
    assert told["refused"] == [
        "parallel.tensor = 8: must divide the 4 heads",
        "parallel.sequence = 8: must divide the 12 positions of an example",
        "batch_size = 12: its micro-batches of 12 rows must be divisible by the 8 devices",
    ]
