"""Plans: what a compiled program says, beside counts by hand; and what is refused."""

import importlib.util
import itertools
import json
import math
import pickle

import pytest

from experiments import llama_8b
from lmjax import ahead
from lmjax.ahead import FULL, Compiled, Place, compile_step
from lmjax.chips import read_topology
from lmjax.cli import main
from lmjax.collectives import Collective, group, seconds
from lmjax.errors import FieldError, InputError, RunError
from lmjax.hlo import Program
from lmjax.parts import replace
from lmjax.plan import plan, spread

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not here: uv sync --extra aot"
)
LAYERS, WIDTH, HIDDEN, VOCABULARY, LENGTH = 2, 512, 1024, 2048, 1024
CHANGES = {
    "task.model.depth": LAYERS,
    "task.model.width": WIDTH,
    "task.model.heads": 4,
    "task.model.kv_heads": 4,
    "task.model.mlp_width": HIDDEN,
    "task.model.vocab_size": VOCABULARY,
    "task.model.remat": "none",
    "data.vocab_size": VOCABULARY,
    "data.end_of_text": 1,
    "data.sequence_length": LENGTH,
    "batch_size": 4,
    "parallel.fsdp": 4,
}


def small(**changes):
    made = llama_8b.config()
    for path, value in {**CHANGES, **changes}.items():
        made = replace(made, path, value)
    return made


@pytest.fixture(scope="module")
def compiled():
    topology = read_topology("v5e:2x2")
    return compile_step(spread(small(), topology), topology)


@needs_libtpu
def test_the_bytes_of_collectives_are_those_by_hand(compiled):
    """Each matrix of a layer is gathered in bfloat16 forward and again backward."""
    layer = 4 * WIDTH * WIDTH + 3 * WIDTH * HIDDEN
    table = VOCABULARY * WIDTH
    gathered = sum(one.total for one in compiled.collectives if one.kind == "all-gather")
    assert gathered == 2 * (2 * LAYERS * layer + 2 * table)
    assert all(one.group == (0, 1, 2, 3) for one in compiled.collectives)
    summed = sum(one.total for one in compiled.collectives if one.kind != "all-gather")
    gradients = 2 * (LAYERS * layer + table) + 4 * table  # that of the look-up is float32
    assert gradients <= summed < 1.01 * gradients  # and some vectors and metrics


@needs_libtpu
def test_gathers_are_within_a_copy_of_the_state_on_a_mesh_that_cuts_a_side():
    """Two copies on 4 x 4 chips, of which no side is 8 long."""
    changes = {"parallel.fsdp": 8, "batch_size": 16}
    topology = read_topology("v6e:4x4")
    found = compile_step(spread(small(**changes), topology), topology).collectives
    assert {one.group for one in found if one.kind == "all-gather"} == {tuple(range(8))}


@needs_libtpu
def test_operations_are_those_of_the_model_with_all_turns_of_the_loop(compiled):
    matrices = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * HIDDEN) + VOCABULARY * WIDTH
    assert compiled.program.flops == 6 * matrices * LENGTH
    assert compiled.program.flops_of_one_turn < compiled.program.flops


@needs_libtpu
def test_splash_is_in_the_program_forward_and_backward_and_the_state_is_aliased(compiled):
    found = compiled.program.kernels()
    for phase in ("fwd", "dq", "dkv"):
        assert sum(times for name, times in found.items() if phase in name) == LAYERS
    assert compiled.program.aliased == compiled.state
    assert compiled.state < compiled.needed < 2**28


@needs_libtpu
def test_a_command_tells_and_writes_the_score_card(tmp_path, capsys):
    words = [f"--{path.replace('_', '-')}={value}" for path, value in CHANGES.items()]
    path = tmp_path / "plan.json"
    assert main(["plan", "llama_8b", "--topology", "v5e:2x2", "--json", str(path), *words]) == 0
    told = capsys.readouterr().out
    assert "FITS" in told
    assert "static, not measured" in told
    written = json.loads(path.read_text())
    assert written["fits"]
    assert 0 < written["predicted"]["mfu_in_turn"]["causal"] < written["predicted"]["mfu"]["full"]


HLO = """HloModule m, input_output_alias={ {0}: (0, {}, may-alias) }, entry_computation_layout={}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %w = f32[4,4]{1,0} constant({...})
  %y = f32[8,4]{1,0} convolution(%x, %w), dim_labels=bf_io->bf
}

%cond (p: (s32[], f32[8,4])) -> pred[] {
  %q = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%q), index=0
  %n = s32[] constant(7)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %while = (s32[], f32[8,4]{1,0}) while(%a), condition=%cond, body=%body
}
"""


def test_the_body_of_a_loop_counts_as_often_as_it_runs():
    program = Program(HLO)
    assert program.flops == 7 * 2 * 8 * 4 * 4
    assert program.flops_of_one_turn == 2 * 8 * 4 * 4
    assert program.aliased == 8 * 4 * 4
    assert Program(HLO.replace("constant(7)", "constant(3)")).flops == 3 * 2 * 8 * 4 * 4


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("replica_groups={{0,2},{1,3}}, x", (0, 2)),
        ("replica_groups=[2,2]<=[4], x", (0, 1)),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", (0, 2)),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, x", (0, 2)),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}, x", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'a'}, x", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'b','c'}, x", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,1,2,0) {'b'}, x", (3, 1)),
        ("replica_groups=mesh['a'=12,'b'=2] {'a':(2)3}, x", (0, 4, 8)),
        ("replica_groups={}, x", ()),
        ("source_target_pairs={{0,1},{1,2},{2,0}}, x={1}", (0, 1, 1, 2, 2, 0)),
    ],
)
def test_groups_are_read_in_each_way_they_are_written(text, members):
    assert group(text) == members


def test_groups_in_another_form_are_not_guessed_at():
    with pytest.raises(RunError, match="not known here: mesh<4>"):
        group("dimensions={0}, replica_groups=mesh<4>, x")


LINK, NETWORK = 9e10, 6.25e9  # bytes a second of a v5p's links, each way, and between slices
BYTES = 12 * 10**9


def link_seconds(kind: str, topology: str, places: list[Place]) -> float:
    one = Collective(kind, BYTES, 1, tuple(range(len(places))), False, "")
    slices = len({place.slice_index for place in places})
    return seconds(one, read_topology(topology, slices), places)


@pytest.mark.parametrize(
    ("topology", "xs", "zs", "links"),
    [
        ("v5p:4x4x8", [0], range(8), 2),  # a ring
        ("v5p:4x4x8", [0], range(4), 1),  # half of one is a line
        ("v5p:4x4x8", [0], [4, 5], 1),
        ("v5p:2x4x4", [0], range(4), 1),  # less than a cube has no links around
        ("v5p:4x4x8", [0], [0, 2, 4, 6], 2 / 2),  # around, beside the group of those between
        ("v5p:4x4x8", [0], [0, 4], 2 / 4),  # each half of a ring carries for four pairs
        ("v5p:4x4x8", [0], [0, 2], 1 / 2),  # the middle link carries for two pairs
        ("v5p:4x4x8", range(4), range(4), 2 + 1),
        ("v5p:4x4x8", range(4), range(8), 2 + 2),
    ],
)
def test_a_group_has_two_links_only_where_it_closes_a_ring(topology, xs, zs, links):
    places = [Place((x, 0, z), 0) for x in xs for z in zs]
    gathered = BYTES * (1 - 1 / len(places)) / (links * LINK)
    assert math.isclose(link_seconds("all-gather", topology, places), gathered)
    assert math.isclose(link_seconds("all-reduce", topology, places), 2 * gathered)


def test_what_crosses_slices_is_charged_to_the_network():
    ring = [Place((0, 0, z), s) for s in (0, 1) for z in range(4)]
    column, far = BYTES / 4, 1 / 2  # what a chip holds of its slice; what comes from the other
    gathered = BYTES * 3 / 4 / (2 * LINK) + column * far / NETWORK
    assert math.isclose(link_seconds("all-gather", "v5p:4x4x4", ring), gathered)
    # On a ring of n, an all-to-all of B a chip takes n / 4 of what a link takes for B, halved.
    turned = BYTES * far * 4 / 4 / (2 * LINK) + BYTES * far / NETWORK
    assert math.isclose(link_seconds("all-to-all", "v5p:4x4x4", ring), turned)


@pytest.mark.parametrize(
    ("pairs", "speed"),
    [([(0, 1)], LINK), ([(0, 2)], NETWORK), ([(0, 1), (1, 2), (2, 3), (3, 0)], NETWORK)],
)
def test_a_permute_sends_all_its_bytes_over_what_is_slowest(pairs, speed):
    chips = [Place((0, 0, z), s) for s in (0, 1) for z in (0, 1)]
    group = tuple(itertools.chain(*pairs))
    one = Collective("collective-permute", BYTES, 3, group, False, "")
    assert seconds(one, read_topology("v5p:4x4x4", 2), chips) == 3 * BYTES / speed


REPORT = "memory space 0 (color=0)\n Total bytes: 1234\n"
FAKE = """import sys
from pathlib import Path
for name, content in {files!r}.items():
    Path(sys.argv[1], name).write_bytes(content)
"""


def compile_as(monkeypatch, report: str) -> Compiled:
    """Compile by a process that has only written such a memory report."""
    files = {
        ahead.TOLD: pickle.dumps(Compiled([], 0, {})),
        "m.memory-usage-report.txt": report.encode(),
        "m.after_buffer_assignment.txt": HLO.encode(),
    }
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(ahead, "CHILD", FAKE.format(files=files))
    return compile_step(small(), read_topology("v5e:2x2"))


def test_a_memory_report_that_cannot_be_read_is_no_fit(monkeypatch):
    assert compile_as(monkeypatch, REPORT).needed == 1234
    with pytest.raises(RunError, match="memory report"):
        compile_as(monkeypatch, REPORT.replace("Total bytes", "Bytes in all"))


def test_other_chips_are_analysed_and_it_is_said():
    made = plan(small(), read_topology("h100:4"), price=2.0)
    assert made.compiled is None
    assert made.prediction is None
    matrices = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * HIDDEN) + VOCABULARY * WIDTH
    attention = 6 * LAYERS * WIDTH * LENGTH
    assert math.isclose(made.useful, (6 * matrices + attention) * LENGTH)


def test_both_ways_of_running_out_of_memory_are_read():
    for told in ("Used 17.20G of 15.75G hbm", "HLO temporaries (17.20G) exceeds available HBM"):
        assert FULL.search(told).groups() == ("17.20", "G")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "plan needs the name"),
        (["llama_8b"], "needs --topology"),
        (["llama_8b", "--topology", "v5f:4x4"], "unknown TPU 'v5f'"),
        (["llama_8b", "--topology", "v5p:4x4"], "has 3 sides"),
        (["llama_8b", "--topology", "v5e:64x64"], "at most 256"),
        (["llama_8b", "--topology", "v5p:16x16x32"], "at most 6,144"),
        (["llama_8b", "--topology", "v5p:4x4x2"], "must multiply to the 32 chips"),
        (["llama_8b", "--topology", "h100:64", "--price", "-1"], "must be >= 0"),
        (["llama_8b", "--topology", "h100:64", "--tokens", "x"], "must be a number"),
    ],
)
def test_bad_input_is_one_line(words, told, capsys):
    assert main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("word", ["inf", "nan", "1.5", "1e0", "0", "-1", "x", "1_0", "\u0663"])
def test_slices_are_a_number_of_them(word, capsys):
    assert main(["plan", "llama_8b", "--topology", "v5p:4x4x4", "--slices", word]) == 2
    told = f"lmjax: --slices {word!r}: must be a whole number >= 1\n"
    assert capsys.readouterr().err == told


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="uv run --isolated --extra aot"):
        compile_step(small(), read_topology("v5e:2x2"))


def test_slices_hold_whole_copies():
    with pytest.raises(FieldError, match="multiple of the 2 slices"):
        spread(small(**{"parallel.fsdp": 8}), read_topology("v5e:2x2", 2))
