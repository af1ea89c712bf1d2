"""The launcher of TPUs, verb by verb, with a gcloud that records and plays (tpu_stand_in.py)."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tpu_cloud import CREATE, TRAIN, Cloud

from lmjax.errors import InputError
from tpu import accelerators, archive, commands, records
from tpu.cloud import Look

ROOT = Path(__file__).parents[1]
NASTY = [
    "it's",
    'say "x"',
    "; touch pwned",
    "$(touch pwned)",
    "`touch pwned`",
    "a  b",
    "",
    "*",
    "\n",
]


@pytest.fixture
def cloud(tmp_path, capfd, monkeypatch) -> Iterator[Cloud]:
    made = Cloud(tmp_path, capfd, monkeypatch)
    yield made
    made.close()


class Time(NamedTuple):
    """That of the launcher alone; subprocess sleeps too."""

    sleep: Callable[[float], object]
    time: Callable[[], float] = time.time


def printed(out: str) -> list[list[str]]:
    return [shlex.split(line) for line in out.splitlines() if not line.startswith("#")]


def test_only_the_stand_in_can_be_called(cloud):
    assert os.environ["PATH"].split(os.pathsep) == [str(cloud.bin)]
    assert shutil.which("gcloud") == str(cloud.bin / "gcloud")
    assert not (cloud.bin / "tools" / "gcloud").exists()  # where the workers' commands look


def test_a_dry_run_prints_what_is_executed_and_executes_nothing(cloud):
    cloud.set(workers=2)
    verbs = [
        CREATE,
        ("status", "run-1"),
        ("setup", "run-1"),
        ("push", "run-1"),
        ("run", "run-1", "--", *TRAIN, *NASTY[:-1]),
        ("logs", "run-1", "--lines", "7", "--worker", "1"),
        ("stop", "run-1"),
        ("delete", "run-1"),
    ]
    for verb, *words in verbs:
        dry = cloud.launch(verb, "--dry-run", *words)
        assert (dry.code, cloud.calls()) == (0, []), verb
        real = cloud.launch(verb, "--yes", *words)
        assert real.code == 0, real
        assert cloud.calls() == printed(dry.out), verb
        cloud.forget_calls()
    assert records.names() == []


def test_the_equality_above_can_fail(cloud):
    """Its negative control: other words print another command."""
    one = cloud.launch("create", "--dry-run", *CREATE[1:])
    two = cloud.launch("create", "--dry-run", *CREATE[1:-1], "0.6", "--network", "n")
    assert printed(one.out) != printed(two.out)


def test_what_is_asked_for(cloud):
    assert cloud.launch(*CREATE, "--yes", "--valid-until-duration", "6h").code == 0
    owner = records.owner()
    assert re.fullmatch(r"[0-9a-f]{16}", owner)
    where = ["--project=my-project", "--zone=us-west4-a", "--quiet"]
    assert cloud.calls() == [
        [
            *("gcloud", "compute", "tpus", "queued-resources", "create", "run-1", *where),
            *("--node-id=run-1", "--accelerator-type=v5litepod-16"),
            *("--runtime-version=v2-alpha-tpuv5-lite", f"--labels=lmjax-owner={owner}"),
            *("--valid-until-duration=6h", "--spot"),
        ]
    ]


def test_words_reach_every_worker_as_they_are(cloud):
    cloud.set(workers=2)
    cloud.ready()
    assert cloud.launch("run", "run-1", "--", *TRAIN, *NASTY).code == 0
    for worker in (0, 1):
        assert cloud.words(worker) == [*TRAIN[1:], *NASTY]
    assert list(cloud.bin.rglob("pwned")) == []
    told = cloud.launch("logs", "run-1").out
    assert "w0: training on tpu,cpu, one of 4" in told  # as the accelerator's name says
    assert "w1: training on tpu,cpu, one of 4" in told
    cloud.finish(0)


def test_the_stand_in_s_shell_would_have_run_them(cloud):
    """The negative control of quoting: the same words, only joined."""
    cloud.ready()
    bare = commands.ask(records.load("run-1"), "start")
    bare[-4] = "--command=bash lmjax-worker.sh log 1 " + " ".join(NASTY[2:4])
    cloud.launch("status")
    subprocess.run(bare, check=False, capture_output=True)
    assert len(list(cloud.bin.rglob("pwned"))) == 1


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("NAME", "two words"),
        ("NAME", "a;b"),
        ("NAME", "$(touch pwned)"),
        ("NAME", "it's"),
        ("NAME", "UPPER"),
        ("NAME", "../up"),
        ("--project", "my project"),
        ("--zone", "us-west4-a;"),
        ("--accelerator", "v5e-16"),
        ("--accelerator", "v5p-7"),
        ("--accelerator", "v6e-"),
        ("--tier", "sport"),
        ("--price", "-1"),
        ("--price", "nan"),
    ],
)
def test_what_no_cloud_would_take_is_refused_in_one_line(cloud, flag, value):
    words = list(CREATE)
    words[words.index(flag) + 1 if flag in words else 1] = value
    done = cloud.launch(*words, "--yes")
    assert (done.code, done.out, cloud.calls(), records.names()) == (2, "", [], [])
    assert done.err.startswith("tpu.launch: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["crate", "x"], "unknown verb 'crate'; nearest: create"),
        (["run", "run-1"], "run: the command is missing: run NAME -- lmjax train ..."),
        (["delete", "run-1"], "'run-1' was not created by this launcher, nor was anything else"),
        (["create", "run-1"], "the following arguments are required: --project, --zone"),
        (["babysit", "x", "--max-hours", "1", "--", "lmjax"], "needs --workdir gs://BUCKET/RUN"),
        (["babysit", "x", "--max-hours", "0", "--", *TRAIN], "--max-hours = 0.0: must be > 0"),
    ],
)
def test_bad_words_are_told_in_one_line(cloud, words, told):
    done = cloud.launch(*words)
    assert (done.code, done.out, cloud.calls()) == (2, "", [])
    assert told in done.err
    assert done.err.count("\n") == 1


def test_without_gcloud_it_says_so(cloud, monkeypatch):
    monkeypatch.setenv("PATH", str(cloud.here))
    done = cloud.launch(*CREATE, "--yes")
    assert (done.code, done.err) == (
        2,
        "tpu.launch: gcloud is not on PATH; install the Google Cloud CLI\n",
    )


@pytest.mark.parametrize("answer", ["", "n\n", "\n", "yess\n"])
def test_nothing_is_spent_without_a_yes(cloud, answer):
    done = cloud.launch(*CREATE, answer=answer)
    assert (done.code, cloud.calls(), records.names()) == (1, [], [])
    question = "spot v5litepod-16: 16 chips at $0.50 = $8.00 an hour while ACTIVE. Create? [y/N] "
    assert question in done.out
    assert cloud.launch(*CREATE, answer="y\n").code == 0
    assert cloud.verbs() == ["create"]


def test_deletion_asks_too(cloud):
    cloud.ready()
    assert cloud.launch("delete", "run-1", answer="n\n").code == 1
    assert cloud.verbs() == ["describe"]
    done = cloud.launch("delete", "run-1", answer="y\n")
    assert (done.code, cloud.verbs()[-1], records.names()) == (0, "delete", [])
    assert "it has cost at most $" in done.out


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (["delete"], {}),
        (["delete"], {"other": "label"}),
        (["delete"], {"lmjax-owner": "0123456789abcdef"}),
        (["setup"], {}),
        (["push"], {}),
        (["stop"], {}),
        (["run", "--", *TRAIN], {}),
        (["babysit", "--max-hours", "1", "--", *TRAIN], {}),
    ],
)
def test_what_others_created_under_its_name_is_not_touched(cloud, labels, words):
    """It was deleted elsewhere, and somebody has created another of the same name since."""
    cloud.ready()
    other = {"states": ["ACTIVE"], "labels": labels, "node": "READY"}
    cloud.set(resources={"run-1": other})
    verb, *rest = words
    done = cloud.launch(verb, "run-1", "--yes", *rest)
    assert done.code == 1
    assert "run-1 in my-project, us-west4-a is somebody else's, and was not touched" in done.err
    assert set(cloud.verbs()) == {"describe"}
    cloud.set()
    assert cloud.world["resources"] == {"run-1": {**other, "now": "ACTIVE"}}


def test_what_was_not_created_from_here_is_not_even_looked_at(cloud):
    cloud.ready()
    held = cloud.world["resources"]
    cloud.set(resources={**held, "run-2": held["run-1"]})
    done = cloud.launch("delete", "run-2", "--yes")
    told = "not created by this launcher: unknown resource 'run-2'; nearest: run-1"
    assert (done.code, done.err, cloud.calls()) == (2, f"tpu.launch: {told}\n", [])


def test_the_same_name_is_not_created_twice(cloud):
    cloud.ready()
    done = cloud.launch(*CREATE, "--yes")
    assert (done.code, cloud.calls()) == (2, [])
    assert "was created from here already" in done.err


@pytest.mark.parametrize("text", ["{}", '{"name": "ru'])
def test_a_damaged_record_hides_no_other(cloud, text):
    cloud.ready()
    (records.folder() / "other.json").write_text(text)
    done = cloud.launch("status")
    assert done.code == 0
    assert "run-1: ACTIVE" in done.out
    assert "other.json is damaged; see in the cloud's console whether it costs" in done.err
    done = cloud.launch("delete", "other", "--yes")
    assert (done.code, done.err.count("\n")) == (2, 1)


QUOTA = "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptibleLitepod' has been exceeded. Limit: 0"


@pytest.mark.parametrize(
    ("refusal", "states", "told", "kept"),
    [
        (QUOTA, None, "ask for preemptible quota of v5litepod-16 in us-west4-a", []),
        ("PERMISSION_DENIED: no", None, "run-1 was not created: ERROR", []),
        ("ALREADY_EXISTS: run-1", ["ACTIVE"], "ALREADY_EXISTS", []),
        # It may have been created, so it is not forgotten.
        ("connection reset", ["UNREACHABLE"], "whether it is there could not be told", ["run-1"]),
    ],
)
def test_a_creation_that_is_refused(cloud, refusal, states, told, kept):
    other = {"states": states, "labels": {}, "node": "READY"}
    cloud.set(refusals=[refusal], resources={"run-1": other} if states else {})
    done = cloud.launch(*CREATE, "--yes")
    assert done.code == 1
    assert told in done.err
    assert done.err.count("\n") == 1
    assert (cloud.verbs(), records.names()) == (["create", "describe"], kept)


def test_waiting_until_it_is_there(cloud, monkeypatch):
    slept = []
    monkeypatch.setattr("tpu.launch.time", Time(slept.append))
    cloud.set(plays=[["WAITING_FOR_RESOURCES", "UNREACHABLE", "PROVISIONING", "ACTIVE"]])
    cloud.launch(*CREATE, "--yes")
    done = cloud.launch("status", "run-1", "--wait")
    assert (done.code, slept) == (0, [60.0, 90.0, 135.0])
    states = [line.split(" ")[1].rstrip(";") for line in done.out.splitlines()]
    assert states == ["WAITING_FOR_RESOURCES", "unknown", "PROVISIONING", "ACTIVE"]


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_waiting_for_what_was_lost_ends(cloud, state):
    cloud.set(plays=[[state]])
    cloud.launch(*CREATE, "--yes")
    done = cloud.launch("status", "--wait")
    assert done.code == 1
    assert f"run-1: {state}" in done.out
    assert ("the request has expired" in done.out) == (state == "FAILED")


def test_workers_that_are_not_there_yet(cloud):
    cloud.set(plays=[["PROVISIONING"]])
    cloud.launch(*CREATE, "--yes")
    done = cloud.launch("push", "run-1")
    assert (done.code, cloud.verbs()) == (1, ["create", "describe"])
    assert "run-1 is PROVISIONING and has no workers yet" in done.err


@pytest.mark.parametrize(
    ("name", "chips", "workers", "runtime"),
    [
        ("v2-8", 4, 1, "tpu-ubuntu2204-base"),
        ("v3-32", 16, 4, "tpu-ubuntu2204-base"),
        ("v4-8", 4, 1, "tpu-ubuntu2204-base"),
        ("v5litepod-8", 8, 1, "v2-alpha-tpuv5-lite"),
        ("v5litepod-16", 16, 4, "v2-alpha-tpuv5-lite"),
        ("v5p-8", 4, 1, "v2-alpha-tpuv5"),
        ("v6e-8", 8, 1, "v2-alpha-tpuv6e"),
        ("v6e-256", 256, 64, "v2-alpha-tpuv6e"),
    ],
)
def test_what_the_name_of_an_accelerator_says(name, chips, workers, runtime):
    assert accelerators.chips(name) == chips
    assert accelerators.workers(name) == workers
    assert accelerators.generation(name).runtime == runtime


def test_an_accelerator_that_is_written_as_people_say_it():
    with pytest.raises(InputError, match="accelerator = 'v5e-16': gcloud calls it v5litepod-16"):
        accelerators.chips("v5e-16")
    with pytest.raises(InputError, match="unknown accelerator 'v6'; nearest: v6e"):
        accelerators.chips("v6-16")


def test_the_archive_is_the_code_and_the_same_bytes_again(tmp_path):
    path, packed = archive.pack()
    assert archive.pack() == (path, packed)
    (tmp_path / "a.tar.gz").write_bytes(packed)
    shutil.unpack_archive(tmp_path / "a.tar.gz", tmp_path / "out", filter="data")
    held = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert {"pyproject.toml", "lmjax/cli.py", "experiments/char_gpt.py", "tpu/worker.sh"} <= held
    assert not [name for name in held if ".git" in name or "__pycache__" in name]


def test_the_worker_script_can_be_asked_twice(cloud):
    """As gcloud does when it lost the connection; a second run is refused."""
    cloud.set(workers=2)
    cloud.ready()
    assert cloud.launch("run", "run-1", "--", *TRAIN).code == 0
    cloud.words()
    assert "running" in cloud.launch("run", "run-1", "--", *TRAIN).out
    other = cloud.launch("run", "run-1", "--", *TRAIN, "--steps", "3")
    assert (other.code, "another run is going on; stop it first" in other.out) == (1, True)
    assert "a run is going on; stop it first" in cloud.launch("push", "run-1").out
    assert cloud.launch("stop", "run-1").code == 0
    exits = [cloud.home(worker) / "lmjax-run" / "exit" for worker in (0, 1)]
    for path in exits:
        cloud.until(path.exists)
    assert [path.read_text() for path in exits] == ["143\n", "143\n"]


@pytest.mark.parametrize("during", ["tpu.launch.time", "tpu.cloud.look"])
def test_waiting_does_not_undo_what_others_note_meanwhile(cloud, monkeypatch, during):
    """Between two looks, or while gcloud looks: a push, then the end of a babysit."""
    cloud.set(plays=[["PROVISIONING"] * 9])
    cloud.launch(*CREATE, "--yes")
    resource = records.load("run-1")
    turns = []

    def meanwhile(*_: object) -> Look:
        turns.append(records.names())
        if len(turns) == 1:
            resource.pushed = "lmjax-1.tar.gz"
            records.save(resource)
            return Look("PROVISIONING")
        if len(turns) == 2:
            assert records.load("run-1").pushed == "lmjax-1.tar.gz"
            records.forget(resource)
            cloud.set(resources={})
        return Look("absent" if len(turns) > 2 else "PROVISIONING")

    monkeypatch.setattr("tpu.launch.time", Time(lambda _: None))
    monkeypatch.setattr(during, Time(meanwhile) if during == "tpu.launch.time" else meanwhile)
    done = cloud.launch("status", "run-1", "--wait")
    assert (done.code, records.names()) == (1, [])
    assert turns[:2] == [["run-1"]] * 2
    assert "run-1: absent" in done.out


def test_nothing_in_lmjax_imports_it():
    pattern = re.compile(r"^\s*(from|import) tpu\b", re.MULTILINE)
    files = [*(ROOT / "lmjax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
    assert len(files) > 100
    assert [path for path in files if pattern.search(path.read_text())] == []
    assert pattern.search((ROOT / "tpu" / "launch.py").read_text())  # what it would find


def test_it_needs_nothing_but_python():
    """-S: without any installed package."""
    command = [sys.executable, "-S", "-m", "tpu.launch", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("usage: python -m tpu.launch VERB"), done.stderr
