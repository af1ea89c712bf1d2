"""What an experiment says of itself from shapes alone."""

import dataclasses
import math
import time

import jax
import pytest

from experiments import breast_cancer, char_gpt
from lmjax import describe
from lmjax.data import Tokens
from lmjax.errors import FieldError, InputError
from lmjax.mesh import Parallel
from lmjax.models import GPT, MLP
from lmjax.optim import SGD, SOAP, Momentum, Muon
from lmjax.parallel import compile_program
from lmjax.parts import replace
from lmjax.rng import key_for
from lmjax.step import make_value_and_grad
from lmjax.tasks import Classification, LanguageModel


def test_gpt_3_describes_itself_without_memory_data_or_device(monkeypatch):
    def touched(*_, **__):
        raise AssertionError("a device was touched")

    for name in ("devices", "device_count", "local_devices", "device_put", "jit"):
        monkeypatch.setattr(jax, name, touched)
    experiment = dataclasses.replace(
        char_gpt.config(),
        task=LanguageModel(
            model=GPT(vocab_size=50257, max_length=2048, depth=96, width=12288, heads=96)
        ),
        data=Tokens(source="text:nowhere.txt", sequence_length=2048),
        compute_dtype="bfloat16",
        parallel=Parallel(fsdp=8, tensor=4),
    )
    begun = time.monotonic()
    found = describe.to_json(describe.describe(experiment))
    assert time.monotonic() - begun < 60  # a second or two on an idle machine
    total = 174_604_259_328
    assert found["parameters"] == found["modules"][""] == total
    assert sum(math.prod(leaf["shape"]) for leaf in found["leaves"]) == total
    assert (
        found["bytes"]["parameters"]["whole"] == found["bytes"]["gradients"]["whole"] == 4 * total
    )
    assert found["bytes"]["optimizer state"]["whole"] == 8 * total + 8  # two moments, two counters
    assert found["state_copies"] == (8 * total + 8) / (4 * total)
    assert found["bytes"]["parameters in bfloat16"]["whole"] == 2 * total
    each = found["bytes"]["parameters"]["each"]
    assert 4 * total / 32 < each < 4.1 * total / 32  # nearly all is cut over all 32
    assert found["flops"]["causal"] == 6 * total + 6 * 96 * 12288 * 2048
    assert found["flops"]["unit"] == "tokens"
    assert found["flops"]["length"] == 2048


@pytest.mark.parametrize("optimizer", [SGD(), Momentum(), Muon(), SOAP()])
def test_the_bytes_of_the_state_are_those_of_a_real_one(tiny_gpt, optimizer):
    experiment = replace(tiny_gpt, "optimizer", optimizer)
    program = compile_program(experiment, experiment.data.shapes(experiment.batch_size))
    state = program.init(program.knobs)
    held = describe.describe(experiment).memory
    for name, tree in (("parameters", state.params), ("optimizer state", state.opt_state)):
        assert held[name].whole == held[name].each == sum(x.nbytes for x in jax.tree.leaves(tree))


def test_the_bytes_on_each_device_follow_the_roles(tiny_gpt):
    """Every matrix and embedding has the residual's width, which fsdp cuts; vectors stay whole."""
    matrices, vectors = (256 + 16) * 16 + 2 * 12 * 16**2, 2 * 13 * 16 + 2 * 16
    for shares in (1, 8):
        cut = replace(tiny_gpt, "parallel", Parallel(fsdp=shares))
        held = describe.describe(cut).memory
        assert held["parameters"].whole == 4 * (matrices + vectors)
        assert held["parameters"].each == 4 * (matrices // shares + vectors)
        assert held["optimizer state"].each == 2 * held["parameters"].each + 8
        kept = held["activations, about"]
        assert kept.each == kept.whole // shares


def test_activations_are_about_what_xla_keeps(tiny_gpt):
    experiment = replace(tiny_gpt, "task.model", GPT(depth=2, width=64, heads=4, max_length=64))
    experiment = replace(experiment, "data.sequence_length", 64)

    def by_xla(experiment) -> int:
        found = describe.describe(experiment)
        variables = {"params": describe.bare(found.state.params)}
        batch = experiment.data.shapes(experiment.batch_size)
        key = jax.eval_shape(lambda: key_for(0, "dropout"))
        step = jax.jit(make_value_and_grad(experiment))
        return step.lower(variables, batch, key).compile().memory_analysis().temp_size_in_bytes

    def by_us(experiment) -> int:
        return describe.describe(experiment).memory["activations, about"].whole

    taken = by_xla(experiment)
    assert by_us(experiment) == pytest.approx(taken, rel=0.25)
    halves = replace(experiment, "accumulation", 2)
    assert by_us(halves) == pytest.approx(by_us(experiment) / 2, rel=0.02)
    assert by_us(halves) != pytest.approx(taken, rel=0.25)


def test_modules_add_up_and_parameters_keep_their_roles(tiny_gpt):
    found = describe.describe(tiny_gpt)
    sizes = describe.modules(found.roles)
    attention, mlp = 4 * 16 * 16 + 4 * 16, 8 * 16 * 16 + 5 * 16
    assert sizes["layers/attention"] == 2 * attention
    assert sizes["layers/mlp"] == 2 * mlp
    assert sizes["layers"] == 2 * (attention + mlp + 4 * 16)
    assert sizes[""] == sizes["layers"] + sizes["norm"] + (256 + 16) * 16
    told = describe.to_text(found)
    assert f"{sizes['']:,} parameters" in told
    assert "  attention" in told
    row = next(line for line in told.splitlines() if line.startswith("layers/mlp/out "))
    told = "layers/mlp/out 2 x 64 x 16 layers mlp embed matrix yes 2,048"
    assert " ".join(row.split()) == told


def test_a_net_is_counted_by_example(tiny_mlp):
    found = describe.to_json(describe.describe(tiny_mlp))
    macs = 64 * 16 + 16 * 10
    assert found["flops"] == {"unit": "examples", "length": 1, "counted": 3 * 2 * macs}
    assert found["model_state"] == []
    assert found["mesh"] == {"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("data.sequence_length", 17, "task.model.max_length 16"),
        ("task.model.heads", 3, "task.model.heads"),
        ("parallel", Parallel(fsdp=3), "batch_size"),
        ("parallel", Parallel(tensor=4), "parallel.tensor"),
        ("task", Classification(model=MLP()), "mlp as classification does not fit tokens"),
    ],
)
def test_what_could_not_run_is_refused(tiny_gpt, path, value, told):
    with pytest.raises(InputError, match=told.replace(".", r"\.")):
        describe.describe(replace(tiny_gpt, path, value))


def test_what_the_model_alone_knows_is_told_with_its_path(tiny_mlp):
    from lmjax.models import SimpleFCN

    with pytest.raises(FieldError, match=r"task\.model\.window"):
        describe.describe(replace(tiny_mlp, "task.model", SimpleFCN(window=8)))


def test_few_operations_are_told_in_a_unit_that_shows_them():
    experiment = replace(breast_cancer.config(), "task.model.hidden", ())
    told = describe.to_text(describe.describe(experiment)).splitlines()
    assert "counted 360 3 times" in " ".join(told[-1].split())


def test_bytes_read_well():
    assert [describe.human(n) for n in (0, 999, 8_928, 698_417_037_312, 10_260_000_000_000)] == [
        "0 B",
        "999 B",
        "8.928 kB",
        "698.4 GB",
        "10.26 TB",
    ]
    assert [describe.human(n, "") for n in (930, 85_080, 5_702_000)] == [
        "930",
        "85.08 k",
        "5.702 M",
    ]
