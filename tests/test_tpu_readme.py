"""tpu/README.md can be followed word for word, in a shell, with stand-ins for gcloud and Slurm."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tpu_cloud import Cloud

from tpu import launch

ROOT = Path(__file__).parents[1]
README = (ROOT / "tpu" / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
RECORDER = """#!{tools}/bash
printf '%s\\n' "${{0##*/}} $*" >>{here}/recorded
"""


@pytest.fixture
def cloud(tmp_path, capfd, monkeypatch) -> Cloud:
    made = Cloud(tmp_path, capfd, monkeypatch)
    tools = made.bin / "tools"
    made.program(made.bin / "python", f'#!{tools}/bash\nexec {sys.executable} -S "$@"\n')
    for name in ("ssh-keygen", "ssh-add", "sbatch"):
        made.program(made.bin / name, RECORDER.format(tools=tools, here=made.bin))
    return made


def follow(cloud: Cloud, block: str) -> str:
    """Each line of a block in a shell, with a yes to what it may ask; what they print."""
    shell, printed = str(cloud.bin / "tools" / "bash"), ""
    for line in block.splitlines():
        done = subprocess.run(
            [shell, "-euc", line],
            cwd=ROOT,
            env={"PATH": str(cloud.bin), "HOME": str(cloud.here)},
            input="y\n",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed += done.stdout
    return printed


def test_it_can_be_followed_word_for_word(cloud):
    """Its runs end at once; the state is kept in a home directory of the test's own."""
    cloud.set(workers=2)
    once, bucket, loop, steps, dry, slurm = BLOCKS
    follow(cloud, once + bucket)
    assert [call[1] for call in cloud.calls()] == [
        "auth",
        "config",
        "services",
        "storage",
    ]
    (cloud.bin / "finish").write_text("0")
    told = follow(cloud, loop)
    assert "8 chips at $0.60 = $4.80 an hour while ACTIVE; at most 12 hours ($57.60)" in told
    assert "the run is complete" in told
    told = follow(cloud, steps)
    assert "w1: training on tpu,cpu, one of 1" in told
    assert "char-gpt is gone" in told
    cloud.set()
    assert cloud.world["resources"] == {}
    cloud.forget_calls()
    assert follow(cloud, dry).startswith("gcloud compute tpus queued-resources create char-gpt ")
    assert cloud.calls() == []
    follow(cloud, slurm)
    recorded = (cloud.bin / "recorded").read_text().splitlines()
    words = "tpu/slurm.sbatch train char_gpt --workdir /shared/runs/char_gpt"
    key = f"{cloud.here}/.ssh/google_compute_engine"
    assert recorded == [f"ssh-keygen -t rsa -f {key}", f"ssh-add {key}", f"sbatch {words}"]


def test_a_word_that_is_wrong_would_be_told(cloud):
    """The negative control of following it."""
    with pytest.raises(AssertionError, match="unknown accelerator 'v7litepod'"):
        follow(cloud, BLOCKS[2].replace("v5litepod", "v7litepod"))


def test_it_names_every_verb_and_every_file(cloud):
    verbs = re.findall(r"^  (\w+) (?:NAME|\[NAME\])", launch.USAGE, re.MULTILINE)
    assert len(verbs) == 9
    assert re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE) == verbs
    named = set(re.findall(r"`((?:tpu|tests)/[\w./]+)`", README))
    assert {"tpu/worker.sh", "tests/tpu_stand_in.py"} <= named
    assert [name for name in named if not (ROOT / name).exists()] == []


SLURM = """#!{tools}/bash
case ${{0##*/}} in
srun) printf '%s\\n' "$@" >{here}/words; exit $(<{here}/status) ;;
*) echo "$*" >{here}/requeued ;;
esac
"""


@pytest.mark.parametrize(
    ("status", "restarts", "code", "requeued"),
    [
        (0, "", 0, False),
        (1, "", 1, False),
        (137, "", 137, False),
        (143, "", 0, True),
        (143, "50", 143, False),
        (75, "", 0, True),
        (75, "50", 75, False),
    ],
)
def test_the_sbatch_file_goes_back_into_the_queue_after_a_save_or_a_loss(
    cloud, status, restarts, code, requeued
):
    for name in ("srun", "scontrol"):
        cloud.program(cloud.bin / name, SLURM.format(tools=cloud.bin / "tools", here=cloud.bin))
    (cloud.bin / "status").write_text(str(status))
    told = {"SLURM_SUBMIT_DIR": str(cloud.here), "SLURM_JOB_ID": "7", "PATH": os.environ["PATH"]}
    if restarts:
        told["SLURM_RESTART_COUNT"] = restarts
    words = ["train", "char_gpt", "it's", "$(touch pwned)", "a  b"]
    shell = str(cloud.bin / "tools" / "bash")
    command = [shell, str(ROOT / "tpu" / "slurm.sbatch"), *words]
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert (cloud.bin / "words").read_text().splitlines() == ["lmjax", *words]
    assert (cloud.bin / "requeued").exists() == requeued


def test_the_sbatch_file_without_words(cloud):
    shell = str(cloud.bin / "tools" / "bash")
    command = [shell, str(ROOT / "tpu" / "slurm.sbatch")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "no words for lmjax were given" in done.stderr) == (2, True)
