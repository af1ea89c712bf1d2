"""The benchmark for GPUs, at toy sizes on what there is, and what it concludes from texts."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from experiments.benchmarks import gpt_gpu, gpt_hlo, gpt_parts, gpt_roofline
from experiments.benchmarks.gpt_bench import compare_losses, shared_memory
from experiments.benchmarks.gpt_rows import experiment, rows
from experiments.benchmarks.gpt_sweep import Budget, Move, Sweep, Worker, descend
from lmjax.mesh import OnMesh
from lmjax.parallel import compile_program


def numbers(value: Any) -> list[float]:
    """All numbers in a tree of JSON."""
    if isinstance(value, dict):
        return [x for part in value.values() for x in numbers(part)]
    if isinstance(value, list):
        return [x for part in value for x in numbers(part)]
    return [value] if isinstance(value, (int, float)) else []


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of the whole command without a peer."""
    path = tmp_path_factory.mktemp("gpt_gpu") / "numbers.json"
    words = ["--tiny", "--rows", "124m", "--peer-python", "", "--json", str(path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiles in half the time
        assert gpt_gpu.main(words) == 0, path.with_suffix(".log").read_text()[-2000:]
    return json.loads(path.read_text())


def test_every_number_is_there_and_finite(results: dict[str, Any]) -> None:
    assert results["failed"] == {}
    assert results["cut"] == results["wrong"] == []
    assert results["complete"]
    assert set(results["parts"]) == {"ceilings", "embedding", "attention", "bits"}
    assert set(results["parts"]["embedding"]["default"]) >= {
        f"{way} {dtype}"
        for way in ("scatter", "sorted", "product")
        for dtype in ("float32", "bfloat16")
    }
    row = results["rows"]["124m"]
    assert set(row) == {"ours", "turns", "profile", "roofline"}
    assert set(row["roofline"]["products"]) == {
        *("qkv", "attention out", "mlp in", "mlp out", "head")
    }
    assert row["turns"]["ours"]["tokens_per_second"]["median"] > 0
    assert all(math.isfinite(number) for number in numbers(results))
    assert len(numbers(results)) > 200


def test_losses_fall_alike_in_every_way_to_compute_them(results: dict[str, Any]) -> None:
    tried = results["rows"]["124m"]["ours"]["tried"]
    assert {one["point"]["cross_entropy"] for one in tried} == {"one-pass", "plain", "chunked"}
    assert {one["point"]["batch"] for one in tried} > {2}
    assert all(one["losses"][-1] < one["losses"][0] - 0.1 for one in tried)
    best = results["rows"]["124m"]["ours"]["best"]
    assert best["tokens_per_second"] == max(one["tokens_per_second"] for one in tried)
    batch = best["point"]["batch"]
    same = [one["losses"] for one in tried if one["point"]["batch"] == batch]
    assert len(same) >= 3
    assert all(losses == pytest.approx(same[0], abs=0.01) for losses in same)


def test_all_float32_logits_are_found_where_they_are(results: dict[str, Any]) -> None:
    for one in results["rows"]["124m"]["ours"]["tried"]:
        found = one["checks"]["float32_logits"]
        assert bool(found) is (one["point"]["cross_entropy"] == "plain")
        assert one["memory_bytes"]["aliased"] == one["memory_bytes"]["state"] > 1e5


def test_bits_are_equal_and_of_another_seed_they_are_not(results: dict[str, Any]) -> None:
    told = results["parts"]["bits"]["default"]
    assert told["same_process"]
    assert told["fresh_process"]
    assert told["told_apart"]


def test_the_ways_to_a_gradient_of_a_look_up_are_one(results: dict[str, Any]) -> None:
    found = results["parts"]["embedding"]["default"]
    for name, one in found.items():
        if isinstance(one, dict):
            assert one["error"] < (1e-6 if "float32" in name else 0.01)
    assert found["wide bfloat16"]["error"] < 0.7 * found["scatter bfloat16"]["error"]


COMPILED = """HloModule jit_step
%fused (p: f32[4,9]) -> f32[4,9] {
  ROOT %inside = f32[4,9]{1,0} exponential(%p)
}
%body (p: (f32[8,9], s32[])) -> (f32[8,9], s32[]) {
  %x = f32[8,9]{1,0} get-tuple-element(%p), index=0
  ROOT %t = (bf16[5,7]{1,0}, /*index=1*/s32[]) tuple(%x)
}
ENTRY %main (a: f32[4,9]) -> f32[2] {
  %a = bf16[3]{0} parameter(0)
  %f = pred[2]{0} fusion(%a), kind=kLoop, calls=%fused
  ROOT %c = f32[2]{0} custom-call(%f), custom_call_target="__cudnn$fmhaSoftmaxBackward"
}
"""


def test_what_lies_in_memory_is_told_from_what_a_fusion_never_writes() -> None:
    made = gpt_hlo.arrays(COMPILED)
    assert {str(x) for x in made} == {
        *("f32[8,9]", "bf16[5,7]", "s32[]", "bf16[3]", "pred[2]", "f32[2]")
    }
    assert gpt_hlo.whole_logits(made, 8, {9, 10}) == ["f32[8,9]"]
    assert gpt_hlo.whole_logits(made, 9, {9, 10}) == []
    assert gpt_hlo.kernels(COMPILED) == {"__cudnn$fmhaSoftmaxBackward": 1}
    assert {x.dtype: x.bytes for x in made}["pred"] == 2


class H100:
    """Stands for a GPU that is not here."""

    platform, device_kind, compute_capability = "gpu", "NVIDIA H100 80GB HBM3", "9.0"


@pytest.mark.parametrize(
    ("attention", "remat"), [("auto", "none"), ("cudnn", "full"), ("xla", "none")]
)
def test_cudnn_s_kernels_are_in_the_step_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch, attention: Any, remat: Any
) -> None:
    """As far as it can be lowered without one."""
    monkeypatch.setattr(OnMesh, "device", H100())
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    row = rows(tiny=True)["124m"]
    made = experiment(row, row.start._replace(attention=attention, remat=remat))
    batch = made.data.load().batch(0, 0, made.batch_size)
    program = compile_program(made, batch)
    step: Any = program.train_step
    traced = step.trace(program.abstract_state, batch, None, program.knobs)
    lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
    found = gpt_hlo.kernels(lowered)
    fused = attention != "xla"
    assert any("Backward" in name for name in found) is fused
    assert any(re.fullmatch(r"__cudnn\$fmha((?!Backward).)*", name) for name in found) is fused
    # XLA's own attention multiplies float32 cotangents with bfloat16 keys.
    assert bool(gpt_hlo.float32_products(lowered, row.model.width**2)) is not fused


class Place(NamedTuple):
    batch: int
    way: str = "a"


@pytest.mark.parametrize(
    ("rates", "best", "tried"),
    [
        ({4: 1, 8: 2, 16: 3, 32: 2}, 16, [4, 8, 16, 32]),
        ({4: 3, 8: 2, 2: 4, 1: 3}, 2, [4, 8, 2, 1]),
        ({1: 5}, 1, [4, 2, 1]),  # nothing larger fits
        ({4: 1, 8: 2, 16: 3, 32: 4, 64: 5}, 32, [4, 8, 16, 32]),  # 32 is the most
    ],
)
def test_a_search_climbs_to_the_best_batch_and_keeps_what_is_faster(
    rates: dict[int, float], best: int, tried: list[int]
) -> None:
    def attempt(place: Place) -> dict[str, Any]:
        if place.batch not in rates:
            return {"refused": "out of memory"}
        return {"tokens_per_second": rates[place.batch] + (place.way == "b")}

    moves = [Move({"way": "b"}), Move({"way": "c"}, times=2)]
    found = descend(Place(4), moves, 32, attempt, Budget(60), "search")
    assert [one["point"]["batch"] for one in found.tried] == [*tried, best, 2 * best]
    assert found.best is not None
    assert found.best["point"] == {"batch": best, "way": "b"}


def test_a_search_without_time_tells_what_it_left_out() -> None:
    budget = Budget(-1.0)
    found = descend(Place(4), [], 32, lambda place: {"tokens_per_second": 1.0}, budget, "ours")
    assert [one["point"]["batch"] for one in found.tried] == [4]
    assert [what.split(" (")[0] for what in budget.cut] == ["ours batch=8", "ours batch=2"]


def test_losses_that_do_not_fall_alike_are_told(results: dict[str, Any]) -> None:
    ours = results["rows"]["124m"]["ours"]
    sweep, batch = Sweep(ours["tried"], ours["best"]), ours["best"]["point"]["batch"]

    def beside(losses: list[float]) -> dict[str, Any]:
        peer = Sweep([{"point": {"batch": batch}, "losses": losses}], None)
        return compare_losses(None, sweep, peer, None)  # type: ignore[arg-type]  # none is asked

    right = ours["best"]["losses"]
    assert beside([x + 0.005 for x in right])["alike"]
    assert not beside([x + 0.05 for x in right])["alike"]
    assert not beside([right[0]] * len(right))["alike"]


def test_memory_is_shared_where_both_fit() -> None:
    assert shared_memory(20e9, 30e9, None) == 1.0
    share = shared_memory(20e9, 30e9, 80e9)
    assert share is not None
    assert 20e9 < share * 80e9 < 80e9 - 30e9
    assert shared_memory(40e9, 40e9, 80e9) is None


def test_a_worker_that_fails_dies_or_is_late_is_told(tmp_path: Path) -> None:
    code = """
import sys, time
from experiments.benchmarks.gpt_sweep import serve
def die(): print("last words"); sys.stdout.flush(); __import__("os")._exit(3)
serve({"add": lambda a, b: a + b, "die": die, "sleep": lambda: time.sleep(60)})
"""

    def worker() -> Worker:
        return Worker([sys.executable, "-c", code], tmp_path / "log")

    one = worker()
    assert one.ask(60, do="add", a=1, b=2) == 3
    with pytest.raises(RuntimeError, match="TypeError"):
        one.ask(60, do="add", a=1, b="x")
    assert one.ask(60, do="add", a=1, b=2) == 3
    with pytest.raises(RuntimeError, match=r"died with 3:\n.*last words"):
        one.ask(60, do="die")
    one.close()
    late = worker()
    assert late.ask(60, do="add", a=0, b=0) == 0
    with pytest.raises(RuntimeError, match="no answer in the time"):
        late.ask(0, do="sleep")
    assert not late.lives


def test_the_products_of_a_step_are_the_flops_of_the_model() -> None:
    """6 N a token, but for norms, biases and positions, which are in N and multiply nothing."""
    row = rows(tiny=False)["124m"]
    work = gpt_roofline.products(row.model, 32768, "one-pass", 8192)
    matrices = 12 * 12 * 768**2 + 50304 * 768
    assert sum(product.flops for product in work) == 6 * matrices * 32768
    moved = gpt_roofline.traffic(row.model, 124_475_904, 32768, "one-pass", 8192)
    assert moved["parameters and optimizer"] == 124_475_904 * 34
    told = gpt_roofline.bound(10.0, {"products": 6.0}, {"copies": 10**9}, 1e12)
    assert told["unexplained_ms"] == pytest.approx(3.0)


def test_attention_is_as_close_to_float32_as_bfloat16_can_be(results: dict[str, Any]) -> None:
    for found in results["parts"]["attention"].values():
        assert all(found["xla"][name]["relative"] < 0.01 for name in gpt_parts.RESULTS)
        if jax.default_backend() == "cpu":
            assert "needs an NVIDIA GPU" in found["cudnn"]["refused"]
