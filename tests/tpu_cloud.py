"""A cloud for tests of the launcher: the stand-in gcloud, alone on PATH, and what it has played."""

import ast
import io
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tpu import archive, commands, launch, records
from tpu.babysit import Clock

TOOLS = (
    *("sh", "bash", "cat", "mkdir", "rm", "mv", "cp", "tar", "gzip", "flock", "setsid", "nohup"),
    *("tail", "sed", "date", "sleep", "true", "env", "touch"),
)
UV = """#!{tools}/bash
echo "uv $*" >>"$HOME/uv.log"
case $1 in
venv) mkdir -p "$HOME/lmjax-venv/bin" ;;
pip)
  if [ -f {here}/broken ]; then exit 1; fi
  cp {here}/trainer "$HOME/lmjax-venv/bin/lmjax"
  ;;
esac
"""
# In place of lmjax: keeps its words, and runs until the test says how it ends, or for a minute.
TRAINER = """#!{tools}/bash
printf '%s\\0' "$@" >"$HOME/words"
echo "training on $JAX_PLATFORMS, one of $LMJAX_PROCESSES"
trap 'exit 143' TERM
for _ in {{1..1200}}; do
  for told in {here}/finish.$HOSTNAME {here}/finish; do
    if [ -f $told ]; then exit $(cat $told); fi
  done
  sleep 0.05
done
"""
CREATE = (
    *("create", "run-1", "--project", "my-project", "--zone", "us-west4-a"),
    *("--accelerator", "v5litepod-16", "--tier", "spot", "--price", "0.5"),
)
TRAIN = ["lmjax", "train", "char_gpt", "--workdir", "gs://bucket/run"]


class Done(NamedTuple):
    """One call of the launcher."""

    code: int
    out: str
    err: str


class Cloud:
    """The stand-in's files, and the launcher beside them."""

    def __init__(self, here: Path, capture: Any, monkeypatch: pytest.MonkeyPatch):
        self.here, self.capture, self.patch = here, capture, monkeypatch
        self.bin = here / "bin"
        tools = self.bin / "tools"
        tools.mkdir(parents=True)
        for name in TOOLS:
            found = shutil.which(name)
            assert found, name
            (tools / name).symlink_to(found)
        script = Path(__file__).with_name("tpu_stand_in.py").read_text()
        self.program(self.bin / "gcloud", f"#!{sys.executable} -IS\n{script}")
        self.program(tools / "uv", UV.format(tools=tools, here=self.bin))
        self.program(tools / "python3", f"#!{tools}/true\n")
        self.program(self.bin / "trainer", TRAINER.format(tools=tools, here=self.bin))
        self.world: dict[str, Any] = {"resources": {}, "plays": [], "refusals": []}
        self.set(workers=1, silent=0, undeletable=0)
        monkeypatch.setattr(archive, "PACKED", ("LICENSE",))  # cheap
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setenv("XDG_STATE_HOME", str(here / "state"))

    @staticmethod
    def program(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def set(self, **changed: Any) -> None:
        """Change what the stand-in knows."""
        path = self.bin / "world"
        if path.exists():
            self.world = ast.literal_eval(path.read_text())
        self.world.update(changed)
        path.write_text(repr(self.world))

    def play(self, *states: str) -> None:
        """The states of the one resource, from its next look on."""
        self.set()
        resources = self.world["resources"]
        resources["run-1"]["states"] = list(states)
        self.set(resources=resources)

    def launch(self, *words: str, answer: str = "") -> Done:
        """The launcher with these words, in this process."""
        self.patch.setattr("sys.stdin", io.StringIO(answer))
        self.capture.readouterr()
        code = launch.main(list(words))
        told = self.capture.readouterr()
        return Done(code, told.out, told.err)

    def ready(self) -> None:
        """Created, and as setup and push leave it."""
        done = self.launch(*CREATE, "--yes")
        assert done.code == 0, done
        resource = records.load("run-1")
        resource.pushed = archive.pack()[0].name
        records.save(resource)
        for worker in range(self.world["workers"]):
            home = self.home(worker)
            (home / "lmjax").mkdir(parents=True)
            (home / "lmjax-venv" / "bin").mkdir(parents=True)
            shutil.copy(commands.SCRIPT, home / commands.REMOTE_SCRIPT)
            shutil.copy(self.bin / "trainer", home / "lmjax-venv" / "bin" / "lmjax")
        self.forget_calls()
        self.set()

    def calls(self) -> list[list[str]]:
        """What was called since, as words."""
        path = self.bin / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [ast.literal_eval(line) for line in lines]

    def forget_calls(self) -> None:
        (self.bin / "calls").unlink(missing_ok=True)

    def verbs(self) -> list[str]:
        """Of the calls: create, describe, delete, node, scp, and what was asked over ssh."""
        told = []
        for _, _, _, group, verb, *rest in self.calls():
            command = [w.partition("=")[2] for w in rest if w.startswith("--command=")]
            name = shlex.split(command[0])[2] if command else verb
            told.append("node" if (group, verb) == ("tpu-vm", "describe") else name)
        return told

    def home(self, worker: int = 0) -> Path:
        return self.bin / "workers" / f"w{worker}"

    def words(self, worker: int = 0) -> list[str]:
        """Those that the trainer was called with."""
        path = self.home(worker) / "words"
        self.until(path.exists)
        return path.read_text().split("\0")[:-1]

    def finish(self, code: int, worker: int | None = None) -> None:
        """Let the runs end so, one or all, and wait for it."""
        name = "finish" if worker is None else f"finish.w{worker}"
        (self.bin / name).write_text(str(code))
        chosen = range(self.world["workers"]) if worker is None else [worker]
        for each in chosen:
            self.until((self.home(each) / "lmjax-run" / "exit").exists)

    def freeze(self, worker: int = 0) -> None:
        """Its run does nothing any more, and hears no signal but the one to die."""
        self.words(worker)
        os.kill(int((self.home(worker) / "lmjax-run" / "pid").read_text()), signal.SIGSTOP)

    def unfinish(self) -> None:
        """The next runs go on until they are told again."""
        for path in self.bin.glob("finish*"):
            path.unlink()

    @staticmethod
    def until(true: Callable[[], bool]) -> None:
        for _ in range(2000):
            if true():
                return
            time.sleep(0.01)
        raise AssertionError("it did not come to pass in 20 s")

    def close(self) -> None:
        """Whatever still runs ends."""
        (self.bin / "finish").write_text("0")


class Sleeper:
    """A clock that runs only while the loop sleeps; each sleep does the next thing of its list."""

    def __init__(self, *then: Callable[[], object]):
        self.time, self.slept, self.then = time.time(), [], list(then)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds
        time.sleep(0.05)  # a run that was told to stop takes a moment of true time for it
        assert len(self.slept) < 200, "the loop does not end"
        if self.then:
            self.then.pop(0)()

    def clock(self) -> Clock:
        return Clock(lambda: self.time, self.sleep)


def babysit(cloud: Cloud, *flags: str, then=(), answer: str = "y\n") -> tuple[Done, Sleeper]:
    """The loop, with what happens during each of its sleeps."""
    sleeper = Sleeper(*then)
    sleeper.time = records.load("run-1").looked  # what the test has taken since is not counted
    cloud.patch.setattr("tpu.launch.Clock", sleeper.clock)
    hours = () if "--max-hours" in flags else ("--max-hours", "9")
    done = cloud.launch("babysit", "run-1", *hours, *flags, "--", *TRAIN, answer=answer)
    return done, sleeper
