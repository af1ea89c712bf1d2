"""The manifest of a run: before its first step, whole, without secrets, and read with care."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from lmjax import anatomy, environment, manifest, runfiles, source, step, train
from lmjax.data import Tokens, token_files
from lmjax.environment import HIDDEN, Difference, command_line, redacted, variables
from lmjax.errors import InputError
from lmjax.models import transformer
from lmjax.parallel import compile_program
from lmjax.parts import replace
from lmjax.rng import key_for


class Killed(BaseException):
    """Stands for the end of the process."""


def killed(*_, **__):
    raise Killed


@pytest.fixture(scope="module")
def begun(tmp_path_factory, tiny_mlp) -> dict:
    """The manifest of a run that is killed before its first step, and then made."""
    path = tmp_path_factory.mktemp("begun") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "loop", killed)
        with pytest.raises(Killed):
            train.run(tiny_mlp, str(path), quiet=True)
    first = json.loads((path / "manifest.json").read_text())
    train.run(tiny_mlp, str(path), quiet=True)
    second = json.loads((path / "manifest.json").read_text())
    return {"path": path, "first": first, "second": second}


def test_it_is_written_before_the_first_step_and_a_further_launch_is_added(begun):
    first, second = begun["first"], begun["second"]
    assert len(first["launches"]) == 1
    assert len(second["launches"]) == 2
    assert second["launches"][0] == first["launches"][0]
    assert {**second, "launches": []} == {**first, "launches": []}
    assert not (begun["path"] / ".manifest.json.draft").exists()


def test_it_holds_what_decides_the_run(begun, tiny_mlp):
    held = begun["first"]
    (launch,) = held["launches"]
    keys = jax.random.key_data(key_for(0, "dropout", 1)).tolist()
    assert held["keys"]["dropout"][1] == "".join(f"{word:08x}" for word in keys)
    assert held["keys"].keys() == {"init", "dropout", "augment", "labels", "text"}
    assert held["data"]["digest"] == tiny_mlp.load_data().digest
    assert held["leaves"]["params/head/kernel"] == "float32[16, 10]"
    assert launch["machine"]["cores"] == sorted(os.sched_getaffinity(0))
    assert launch["versions"]["jax"] == jax.__version__
    assert launch["config_sha256"] == runfiles.sha256(epath.Path(begun["path"]) / "config.json")
    assert launch["program"]["knobs"] == {
        "seed": 0,
        "learning_rate": (float.fromhex("0x1.99999ap-4")).hex(),
    }
    assert launch["code"]["files"]["train.py"] == source.read_code(tiny_mlp).files["train.py"]
    assert launch["code"]["parts"] == {}
    assert launch["settings"]["jax_enable_x64"] is False


def test_a_program_has_one_digest_and_another_one_another(tiny_mlp):
    batch = train.prepare(tiny_mlp)[1]
    told = [
        manifest.describe_program(compile_program(each, batch))
        for each in (tiny_mlp, tiny_mlp, replace(tiny_mlp, "optimizer.momentum", 0.8))
    ]
    assert told[0] == told[1]
    assert told[0]["stablehlo"] != told[2]["stablehlo"]


def test_the_parts_of_a_step_tell_what_has_changed(tiny_gpt, monkeypatch):
    batch = train.prepare(tiny_gpt)[1]

    def parts(experiment):
        program = compile_program(experiment, batch)
        return anatomy.dissect(program.trace_step().jaxpr)

    def changed(other):
        return {name for name in anatomy.NAMES if other[name].digest != base[name].digest}

    base = parts(tiny_gpt)
    assert changed(parts(tiny_gpt)) == set()
    assert changed(parts(replace(tiny_gpt, "optimizer.b2", 0.9))) == {"update"}
    other = parts(replace(tiny_gpt, "task.model.dropout", 0.2))
    assert "prepare" not in changed(other) >= {"forward", "gradient"}
    half = parts(replace(tiny_gpt, "compute_dtype", "bfloat16"))
    assert "bfloat16" in half["forward"].dtypes
    assert "bfloat16" not in base["forward"].dtypes

    def late(seed, purpose, now=0):
        return key_for(seed, purpose, now + 1)

    monkeypatch.setattr(step, "key_for", late)
    assert changed(parts(tiny_gpt)) == {"prepare"}
    monkeypatch.setattr(step, "key_for", key_for)
    monkeypatch.setitem(transformer.ACTIVATIONS, "gelu_tanh", jax.nn.relu)
    other = parts(tiny_gpt)
    one, two = base["forward"].modules, other["forward"].modules
    assert next(name for name in one if one[name] != two.get(name)) == "Transformer/layers/mlp"


SECRETS = {
    "JAX_API_KEY": "hunter2",
    "JAX_SERVICE_TOKEN": "hunter2",
    "JAX_COMPILATION_CACHE_DIR": "gs://me:hunter2@bucket/folder",
    "NCCL_CONF_FILE": "https://hunter2@host/conf?access_token=hunter2&x=1",
    "XLA_FLAGS": "--xla_a=1 --xla_secret_thing=hunter2",
    "AWS_SECRET_ACCESS_KEY": "hunter2",
    "HOME": "hunter2",
}


def test_no_secret_reaches_it():
    told = variables(SECRETS)
    assert "hunter2" not in json.dumps(told)
    assert told.keys() == {"JAX_COMPILATION_CACHE_DIR", "NCCL_CONF_FILE", "XLA_FLAGS"}
    assert told["NCCL_CONF_FILE"] == f"https://{HIDDEN}@host/conf?access_token={HIDDEN}&x=1"
    assert told["XLA_FLAGS"] == f"--xla_a=1 --xla_secret_thing={HIDDEN}"
    words = [
        "train",
        "--wandb-key",
        "hunter2",
        "--api-token=hunter2",
        "--steps",
        "3",
        "s3://a:hunter2@b",
    ]
    assert command_line(words) == [
        *(
            "train",
            "--wandb-key",
            HIDDEN,
            f"--api-token={HIDDEN}",
            "--steps",
            "3",
            f"s3://{HIDDEN}@b",
        )
    ]
    assert redacted("--optimizer.b2 0.9 tx/a@b c://d/e@f") == "--optimizer.b2 0.9 tx/a@b c://d/e@f"


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_code_is_told_by_its_commit_and_by_its_files(tmp_path, monkeypatch):
    package = tmp_path / "lmjax"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("a = 1\n")
    read = source._package.__wrapped__
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    bare = read(package)
    assert bare.commit is None
    assert "in no commit" in bare.limits()[0]
    git(tmp_path, "init", "-q")
    assert read(package) == bare  # in a repository that does not know it
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "a")
    clean = read(package)
    assert len(clean.commit) == 40
    assert (clean.changed, clean.diff, clean.limits()) == ([], None, [])
    assert (clean.tree, clean.files) == (bare.tree, bare.files)
    (package / "a.py").write_text("a = 2\n")
    dirty = read(package)
    assert dirty.changed == ["lmjax/a.py"]
    assert dirty.diff
    assert f"lmjax/a.py not as in commit {clean.commit[:12]}" in dirty.limits()
    assert source.differences(clean._asdict(), dirty._asdict()) == ["a.py"]
    assert clean.tree != dirty.tree


def test_parts_of_one_s_own_are_part_of_the_code(tiny_mlp):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mine(type(tiny_mlp.optimizer)):
        label = ""

    code = source.read_code(dataclasses.replace(tiny_mlp, optimizer=Mine()))
    assert code.parts.keys() == {Path(__file__).name}
    assert source.read_code(tiny_mlp).parts == {}


def test_the_files_of_the_data_are_told(tmp_path, tiny_gpt, monkeypatch):
    for name, count in (("train", 400), ("val", 100)):
        np.arange(count, dtype=np.uint16).tofile(tmp_path / f"{name}.bin")
    data = Tokens(source=f"tokens:{tmp_path}", sequence_length=16)
    read = data.load()
    assert [(x.name, x.size) for x in read.files] == [("train.bin", 800), ("val.bin", 200)]
    assert not read.sampled
    monkeypatch.setattr(token_files, "WHOLE", 100)
    large = data.load()
    assert large.sampled
    launch = {"code": source.Code("c", [], None, "t", {}, {})._asdict()}
    assert manifest.limits_of(read, [launch]) == []
    assert "over samples" in manifest.limits_of(large, [launch])[0]
    other = {"code": source.Code("c", [], None, "t", {"a.py": "1"}, {})._asdict()}
    assert manifest.limits_of(read, [launch, other]) == ["it was begun with other code"]


def test_environments_are_compared_by_what_can_change_a_bit(begun):
    then = begun["first"]["launches"][0]
    assert environment.differences(then, then) == []
    now = json.loads(json.dumps(then))
    now["machine"]["cores"] = [3]
    now["versions"]["jaxlib"] = "9"
    now["settings"]["jax_enable_x64"] = True
    now["variables"] = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_b"}
    now["variables"]["JAX_COMPILATION_CACHE_DIR"] = "elsewhere"
    now["devices"]["count"] = 8
    now["machine"]["processor_flags"] = ["avx512f"]
    found = environment.differences(then, now)
    assert [each.kind for each in found] == [
        "version",
        "flag",
        "flag",
        "cores",
        "machine",
        "devices",
    ]
    assert str(found[2]) == "XLA_FLAGS none, now --xla_b"
    assert found[3] == Difference("cores", "visible cores", len(then["machine"]["cores"]), 1)


def test_a_run_says_at_its_start_whether_it_can_be_had_again(begun):
    good = manifest.Begun("R4", [], [])
    assert manifest.told(good)[0].startswith("reproducible: to the bit (R4)")
    bad = manifest.Begun("none", ["a", "b"], ["visible cores 1, now 2"])
    assert manifest.told(bad) == [
        "not reproducible: a; b",
        "not as in the launch before: visible cores 1, now 2",
    ]


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (["schema"], 2, "made by another version of lmjax (schema 2, not 1)"),
        (["schema"], None, "another version"),
        (["launches"], [], "launches is empty"),
        (["launches"], {}, "launches = {}: malformed"),
        (["launches"], [3], r"launches.0 = 3: malformed"),
        (["keys"], [], "keys = []: malformed"),
        (["data"], "x", "data = x: malformed"),
        (["data", "digest"], 1, "data.digest = 1: malformed"),
        (["launches", 0, "from_step"], "0", "launches.0.from_step = 0: malformed"),
        (["launches", 0, "machine", "cores"], 2, "launches.0.machine.cores = 2: malformed"),
        (["launches", 0, "code", "files"], None, "launches.0.code.files = None: malformed"),
        (["leaves"], {"a": 3}, "leaves = {'a': 3}: malformed"),
        (["launches", 0, "program", "parts"], {}, "program.parts.prepare is missing"),
        (["launches", 0, "program", "knobs", "seed"], True, "seed = True: malformed"),
    ],
)
def test_a_malformed_field_is_one_line(begun, tmp_path, path, value, told):
    def damaged(change) -> str:
        held = json.loads(json.dumps(begun["first"]))
        inner = held
        for name in path[:-1]:
            inner = inner[name]
        change(inner)
        (tmp_path / "manifest.json").write_text(json.dumps(held))
        with pytest.raises(InputError) as error:
            manifest.read(epath.Path(tmp_path))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert told in damaged(lambda inner: inner.update({path[-1]: value}))
    if path[-1] not in ("schema", "parts"):
        name = ".".join(map(str, path))
        assert f"manifest.json: {name} is missing" in damaged(lambda inner: inner.pop(path[-1]))


def test_a_directory_without_one_has_none(tmp_path):
    assert manifest.read(epath.Path(tmp_path)) is None
