"""Configurations that are refused before a device is touched: a line of the table each."""

import subprocess
import sys

import pytest
from refusals import ROOT, content, outcome, refused

from lmjax import cli, doctor

LM = [  # words after `train char_gpt`, and what is told
    # counts
    ("--steps 0", "steps = 0: must be >= 1"),
    ("--steps -5", "steps = -5: must be >= 1"),
    ("--steps 1.5", "--steps = 1.5: must be a whole number"),
    ("--steps many", "--steps = many: must be a whole number"),
    ("--steps 2147483648", "steps = 2147483648: must be >= 1 and <= 2147483647"),
    ("--steps", "--steps = nothing: must be a whole number"),
    ("--batch-size 0", "batch_size = 0: must be >= 1"),
    ("--batch-size 1e3", "--batch-size = 1e3: must be a whole number"),
    ("--accumulation 0", "accumulation = 0: must be >= 1"),
    ("--batch-size 10 --accumulation 4", "batch_size = 10: must be divisible by accumulation 4"),
    ("--log-every 0", "log_every = 0: must be >= 1"),
    ("--keep 0", "keep = 0: must be >= 1"),
    ("--save-every -1", "save_every = -1: must be >= 0"),
    ("--evaluate-every -1", "evaluate_every = -1: must be >= 0"),
    ("--seed -1", "seed = -1: must be >= 0 and <= 4294967295"),
    ("--seed 4294967296", "seed = 4294967296: must be >= 0 and <= 4294967295"),
    ("--seed x", "--seed = x: must be a whole number"),
    # unknown names, with the nearest that there is
    ("--step 20", "unknown option '--step'; nearest: --steps"),
    ("--optimizer.lerning-rate 1", "nearest: --optimizer.learning-rate"),
    ("--task.model.layers 2", "unknown option '--task.model.layers'; known: --task.model.vocab"),
    ("optimizer:moun", "unknown optimizer 'moun'; nearest: muon"),
    ("optimiser:muon", "unknown part 'optimiser'; nearest: optimizer"),
    ("schedule:cosin", "unknown schedule 'cosin'; nearest: cosine"),
    ("task.model:lama", "unknown task.model 'lama'; nearest: llama"),
    ("task:language", "unknown task 'language'; nearest: language-model"),
    ("data:token", "unknown data 'token'; nearest: tokens"),
    ("data.tokenizer:bpq", "unknown data.tokenizer 'bpq'; nearest: bpe"),
    ("--compute-dtype float16", "--compute-dtype = float16: must be one of float32, bfloat16"),
    ("--task.model.attention flsh", "--task.model.attention = flsh: must be one of"),
    ("steps=3", "unexpected word 'steps=3'; overrides are --field VALUE or part:NAME"),
    # the rate and its schedule
    ("--optimizer.learning-rate 0", "optimizer.learning_rate = 0.0: must be > 0"),
    ("--optimizer.learning-rate -1e-3", "optimizer.learning_rate = -0.001: must be > 0"),
    ("--optimizer.learning-rate nan", "learning_rate = nan: must be a finite number > 0"),
    ("--optimizer.learning-rate inf", "learning_rate = inf: must be a finite number > 0"),
    ("--optimizer.learning-rate 1e400", "learning_rate = inf: must be a finite number > 0"),
    ("--optimizer.learning-rate 1e-46", "learning_rate = 1e-46: must be > 0 in float32"),
    ("--optimizer.learning-rate fast", "--optimizer.learning-rate = fast: must be a number"),
    ("--steps 10 --schedule.warmup-steps 11", "schedule.warmup_steps = 11: must be at most"),
    ("--schedule.warmup-steps -1", "schedule.warmup_steps = -1: must be >= 0"),
    ("--schedule.final 1.5", "schedule.final = 1.5: must be >= 0 and <= 1"),
    ("schedule:wsd --schedule.decay-fraction 0", "schedule.decay_fraction = 0.0: must be > 0"),
    # the optimizer
    ("--optimizer.b1 1", "optimizer.b1 = 1.0: must be >= 0 and < 1"),
    ("--optimizer.b1 -0.1", "optimizer.b1 = -0.1: must be >= 0 and < 1"),
    ("--optimizer.b2 1.5", "optimizer.b2 = 1.5: must be >= 0 and < 1"),
    ("--optimizer.b2 nan", "optimizer.b2 = nan: must be a finite number >= 0 and < 1"),
    ("--optimizer.eps 0", "optimizer.eps = 0.0: must be > 0"),
    ("--optimizer.eps -1", "optimizer.eps = -1.0: must be > 0"),
    ("--optimizer.weight-decay -1", "optimizer.weight_decay = -1.0: must be >= 0"),
    ("--optimizer.clip-norm -1", "optimizer.clip_norm = -1.0: must be >= 0"),
    ("--optimizer.ema-decay 1", "optimizer.ema_decay = 1.0: must be >= 0 and < 1"),
    ("optimizer:muon --optimizer.momentum 1", "optimizer.momentum = 1.0: must be >= 0 and < 1"),
    ("optimizer:muon --optimizer.newton-schulz-steps 101", "newton_schulz_steps = 101: must be"),
    ("optimizer:lion --optimizer.b2 1", "optimizer.b2 = 1.0: must be >= 0 and < 1"),
    ("optimizer:soap --optimizer.refresh-every 0", "optimizer.refresh_every = 0: must be >= 1"),
    ("optimizer:soap --optimizer.eps 0", "optimizer.eps = 0.0: must be > 0"),
    ("optimizer:adafactor --optimizer.clip-threshold 0", "optimizer.clip_threshold = 0.0: must"),
    ("optimizer:mars --optimizer.gamma -1", "optimizer.gamma = -1.0: must be >= 0"),
    ("optimizer:ademamix --optimizer.alpha -1", "optimizer.alpha = -1.0: must be >= 0"),
    ("optimizer:schedule-free-adamw --optimizer.b1 0", "optimizer.b1 = 0.0: must be > 0"),
    # the model
    ("--task.model.heads 3", "task.model.heads = 3: must divide"),
    ("task.model:llama --task.model.kv-heads 3", "task.model.kv_heads = 3: must divide the"),
    ("task.model:llama --task.model.head-dim 3", "task.model.head_dim = 3: must"),
    ("--task.model.depth 0", "task.model.depth = 0: must be >= 1"),
    ("--task.model.width 0", "task.model.width = 0: must be >= 1"),
    ("--task.model.dropout 1", "task.model.dropout = 1.0: must be >= 0 and < 1"),
    ("--task.model.dropout -0.1", "task.model.dropout = -0.1: must be >= 0 and < 1"),
    ("--task.model.vocab-size 100", "task.model.vocab_size = 100: must be at least 256"),
    ("--task.model.max-length 0", "task.model.max_length = 0: must be >= 1"),
    ("--task.model.norm-eps 0", "task.model.norm_eps = 0.0: must be > 0"),
    ("--task.loss-chunk 0", "task.loss_chunk = 0: must be >= 1"),
    ("--task.z-loss -1", "task.z_loss = -1.0: must be >= 0"),
    ("task:classification", "task classification needs labels, but 'python_docs' has none"),
    # shares
    ("--parallel.virtual-shards 3", "parallel.virtual_shards = 3: must be a power of two"),
    ("--batch-size 30 --parallel.virtual-shards 4", "parallel.virtual_shards = 4: times"),
    ("--parallel.virtual-shards 2 --parallel.fsdp 2", "virtual_shards = 2: needs fsdp 1, not 2"),
    ("--parallel.tensor 0", "parallel.tensor = 0: must be >= 1"),
    ("--parallel.data -1", "parallel.data = -1: must be >= 0"),
    # a trace, a start
    ("--profile 3", "--profile 3: must be START:STOP"),
    ("--profile \u0661:\u0662", "--profile \u0661:\u0662: must be START:STOP"),
    (f"--profile 1:{'9' * 5000}", "must be START:STOP, two numbers of steps"),
    ("--init-from nowhere", "nowhere is not a run directory (no config.json)"),
    ("--init-from nowhere@x", "init_from = 'nowhere@x': must be RUN, RUN@STEP or a folder"),
]  # fmt: skip
OTHERS = [  # all words
    ("train digits_fcn task.model:mlp --task.model.hidden 0", "task.model.hidden = 0: must be"),
    ("train digits_fcn --task.model.classes 1", "task.model.classes = 1: must be >= 2"),
    ("train digits_fcn --task.model.classes 9", "task.model.classes = 9: must be at least 10"),
    ("train digits_fcn --task.model.window 9", "task.model.window = 9: "),
    ("train digits_resnet --task.model.norm-momentum 1", "task.model.norm_momentum = 1.0: must"),
    ("train digits_resnet --task.model.norm-epsilon 0", "task.model.norm_epsilon = 0.0: must"),
    ("train digits_fcn task:language-model", "task language-model needs tokens, but 'digits'"),
    ("train chr_gpt", "unknown experiment 'chr_gpt'; nearest: char_gpt"),
    ("trian char_gpt", "unknown command 'trian'; nearest: train"),
    ("describe char_gpt --steps 0", "steps = 0: must be >= 1"),
    ("sample nowhere --temperature nan", "temperature = nan: must be a finite number >= 0"),
    ("sample nowhere --top-p 2", "top_p = 2.0: must be > 0 and <= 1"),
    ("sample nowhere --top-k -1", "top_k = -1: must be >= 0"),
    ("sample nowhere --seed -1", "seed = -1: must be >= 0 and <= 4294967295"),
    ("reproduce nowhere --steps x", "argument --steps: 'x' must be a whole number"),
    ("compare char_gpt_tiny --optimizers adamw adamw", "'adamw' is given twice"),
    ("compare char_gpt_tiny --optimizers adamw moun", "nearest: muon"),
    ("compare char_gpt_tiny --seeds 0", "--seeds: 0 seed; must be at least 2"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "told"), LM)
def test_a_run_that_cannot_be(tmp_path, words, told):
    refused(tmp_path, ["train", "char_gpt", "--workdir", "run", *words.split()], told)


@pytest.mark.parametrize(("words", "told"), OTHERS)
def test_other_commands(tmp_path, words, told):
    refused(tmp_path, words.split(), told)


DEVICES = [  # on 8; how many there are is known only to JAX
    ("--parallel.fsdp 3", "'data 0 x fsdp 3 x sequence 1 x tensor 1': must multiply to the 8"),
    ("--parallel.data 2 --parallel.tensor 2", "must multiply to the 8 devices"),
    ("--batch-size 12", "batch_size = 12: its micro-batches of 12 rows must be divisible by the 8"),
]


@pytest.mark.parametrize(("words", "told"), DEVICES)
def test_a_mesh_that_does_not_fit_the_devices(tmp_path, words, told):
    words = ["train", "char_gpt", "--workdir", "run", *words.split()]
    flags = "--xla_force_host_platform_device_count=8"
    refused(tmp_path, words, told, touches=True, most=2**30, XLA_FLAGS=flags)


def test_a_checkpoint_of_other_precision(tmp_path):
    small = ["train", "digits_fcn", "--steps", "2", "--batch-size", "16"]
    assert outcome(tmp_path, [*small, "--workdir", "run"]).status == 0
    for words in (["eval", "run"], [*small, "--workdir", "new", "--init-from", "run"]):
        told = refused(tmp_path, words, touches=True, most=2**30, JAX_ENABLE_X64="1")
        assert "params/conv/bias is float32[32], not float64[32]" in told
    assert outcome(tmp_path, ["eval", "run"]).status == 0


def test_what_is_not_refused_shows_in_every_way(tmp_path):
    """The control of `refused`: a command that is well, one that raises, one that writes."""
    (tmp_path / "table.md").write_text("<!-- results: begin -->\n<!-- results: end -->\n")
    before = content(tmp_path)
    well = outcome(tmp_path, ["list", ".", "--table", "table.md"])
    assert (well.status, well.raised, well.touched) == (0, "", False)
    assert content(tmp_path) != before
    (tmp_path / "bad.py").write_text("import sys\nsys.exit(3)\n")
    assert "SystemExit: 3" in outcome(tmp_path, ["train", "bad.py"]).raised
    (tmp_path / "large.py").write_text("import jax\nx = b'x' * 2**28\njax.devices()\n")
    large = outcome(tmp_path, ["train", "large.py"])
    assert large.status == 2
    assert large.touched
    assert large.peak > 2**28


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lmjax", "train", "char_gpt", "--batch-size", "0"], "batch_size = 0: must be >= 1"),
        (["experiments.digits_fcn", "--seed", "-1"], "seed = -1: must be >= 0 and <= 4294967295"),
    ],
)
def test_the_real_command(tmp_path, words, told):
    words = [sys.executable, "-m", *words]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"lmjax: {told}\n")


def test_versions_that_do_not_fit_are_refused_before_anything_is_imported(monkeypatch, capsys):
    found = doctor.versions()
    monkeypatch.setattr(doctor, "versions", lambda: {**found, "flax": "0.1.0", "numpy": "9.0"})
    monkeypatch.setitem(sys.modules, "lmjax.catalog", None)  # whose import then fails
    assert cli.main(["train", "char_gpt"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("lmjax: flax 0.1.0 is not ")
    assert told.endswith("see `lmjax doctor`\n")
    assert "numpy" not in told  # which breaks nothing in other places
    monkeypatch.undo()
    assert cli.main(["train", "char_gpt", "--steps", "0"]) == 2
    assert "steps = 0" in capsys.readouterr().err
