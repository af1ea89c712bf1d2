"""The gcloud commands, as lists of words: pure, so that a dry run prints what a run would execute.

Flags are those of Google Cloud SDK 528.0.0 (`queued-resources` and `tpu-vm`, both generally
available). No local shell ever reads them; the one string that a remote shell reads, `--command`,
is quoted here.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from tpu import accelerators
from tpu.records import LABEL, Resource

Command = list[str]
SCRIPT = Path(__file__).with_name("worker.sh")
REMOTE_SCRIPT = "lmjax-worker.sh"  # in the home directory of a worker


def create(resource: Resource) -> Command:
    """Ask for it. Not `--async`: a quota that is exceeded must be told here, not be lost."""
    flags = {
        "node-id": resource.name,
        "accelerator-type": resource.accelerator,
        "runtime-version": resource.runtime,
        "labels": f"{LABEL}={resource.owner}",
        **resource.options,
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    tier = [] if resource.tier == "on-demand" else [f"--{resource.tier}"]
    return _queued("create", resource, *words, *tier)


def describe(resource: Resource) -> Command:
    """The queued resource's state and labels."""
    return _queued("describe", resource, "--format=json")


def delete(resource: Resource) -> Command:
    """With its node. Not `--async`: its name must be free again before it is created anew."""
    return _queued("delete", resource, "--force")


def describe_node(resource: Resource) -> Command:
    """The node's own state, which can be PREEMPTED while the queued resource is still ACTIVE."""
    return _node("describe", resource, resource.name, "--format=json")


def copy(resource: Resource, local: Path, remote: str) -> Command:
    """A file into the home directory of every worker."""
    # Absolute, since scp takes what stands before a colon in another path for a host.
    target = f"{resource.name}:{remote}"
    return _node("scp", resource, str(local.absolute()), target, "--worker=all")


def ask(resource: Resource, *words: str, worker: str = "all") -> Command:
    """The worker script with these words, on one worker or on all of them at once."""
    told = shlex.join(["bash", REMOTE_SCRIPT, *words])
    return _node("ssh", resource, resource.name, f"--worker={worker}", f"--command={told}")


def setup(resource: Resource) -> list[Command]:
    """The worker script and a Python onto every worker; needed once for each incarnation."""
    return [copy(resource, SCRIPT, REMOTE_SCRIPT), ask(resource, "setup")]


def push(resource: Resource, archive: Path) -> list[Command]:
    """The code onto every worker, with what it depends on."""
    return [copy(resource, archive, archive.name), ask(resource, "push", archive.name)]


def start(resource: Resource, words: Sequence[str]) -> Command:
    """The run, detached from the connection."""
    return ask(resource, "start", str(accelerators.workers(resource.accelerator)), *words)


def _queued(verb: str, resource: Resource, *words: str) -> Command:
    group = ["gcloud", "compute", "tpus", "queued-resources", verb, resource.name]
    return [*group, *_where(resource), *words]


def _node(verb: str, resource: Resource, *words: str) -> Command:
    return ["gcloud", "compute", "tpus", "tpu-vm", verb, *words, *_where(resource)]


def _where(resource: Resource) -> list[str]:
    # --quiet: the launcher has asked whatever there was to ask.
    return [f"--project={resource.project}", f"--zone={resource.zone}", "--quiet"]
