"""gcloud, executed: what it answers, and what that says about a resource."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
from typing import Any, NamedTuple, NoReturn

from lmjax.errors import InputError, RunError
from tpu import commands
from tpu.records import LABEL, Resource

# Seconds after which a command has no answer. None may wait for ever, as a hanging ssh would: the
# loop must come to count the hours that the slice costs meanwhile.
POLL_SECONDS = 120.0  # a question to the workers
CALL_SECONDS = 300.0  # a look, a start: what takes seconds where nothing hangs
CHANGE_SECONDS = 1800.0  # a creation or a deletion, whose end gcloud waits for
# States of the API (QueuedResourceState.State), and three that are ours.
WAITING = {"CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING"}
ACTIVE = "ACTIVE"
LEAVING = {"SUSPENDING", "DELETING"}
LOST = {"SUSPENDED", "FAILED"}
ABSENT = "absent"  # no resource of this name
UNKNOWN = "unknown"  # gcloud could not tell: no network, no permission
FOREIGN = "somebody else's"  # without this launcher's label
NOT_OURS = {ABSENT, FOREIGN}
NODE_LOST = {"PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "DELETING", "HIDDEN", "HIDING"}


class Answer(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """Its error in one line: the line that begins with ERROR, or the last one."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        return told[0] if told else f"exit status {self.code}"


class Look(NamedTuple):
    """A resource as it was found."""

    state: str
    reason: str = ""


def call(command: commands.Command, seconds: float = CALL_SECONDS) -> Answer:
    """Execute it and keep what it prints; past `seconds` it is ended, and answers with 124."""
    # A session of its own, so that what gcloud itself started (ssh) can be ended with it.
    with _begin(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _signal_all(process, signal.SIGKILL)
            # What is left in the pipes is not read: an ssh that has left the session may hold them.
            return Answer(124, "", f"no answer within {seconds:g} s")
        except BaseException:
            _signal_all(process, signal.SIGTERM)
            raise
    return Answer(process.returncode, out, err)


def show(command: commands.Command) -> None:
    """Execute it with its output on the terminal; raises RunError where it fails."""
    code = _begin(command).wait()
    if code:
        raise RunError(f"exit status {code} of: {shlex.join(command)}")


def _signal_all(process: "subprocess.Popen[str]", number: int) -> None:
    """To it and to what it started."""
    # Linux lets a process that has just ended be signalled, macOS does not.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _begin(command: commands.Command, **options: Any) -> "subprocess.Popen[str]":
    try:
        # No input: ssh would swallow the answers that are meant for the launcher's questions.
        # Replace: a log may hold any byte, and must not end the loop.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, text=True, errors="replace", **options
        )
    except FileNotFoundError:
        raise InputError("gcloud is not on PATH; install the Google Cloud CLI") from None


def look(resource: Resource) -> Look:
    """The queued resource's state. Raises nothing for what gcloud cannot tell."""
    answer = call(commands.describe(resource))
    if answer.code:
        absent = re.search(r"\bNOT_FOUND\b", answer.err)
        return Look(ABSENT if absent else UNKNOWN, answer.reason)
    try:
        held = json.loads(answer.out)
        nodes = held["tpu"]["nodeSpec"]
        # One is asked for, so a resource of several is somebody else's.
        owner = nodes[0]["node"].get("labels", {}).get(LABEL) if len(nodes) == 1 else None
        if owner != resource.owner:
            found = "no such label" if owner is None else f"{LABEL}={owner}"
            told = f"it has {found}; what was created from here has {LABEL}={resource.owner}"
            return Look(FOREIGN, told)
        return Look(held["state"]["state"], _failure(held["state"]))
    except (ValueError, LookupError, TypeError, AttributeError):
        return Look(UNKNOWN, "what gcloud describes has no state")


def _failure(state: Any) -> str:
    """Why a resource is in its state, where the API says so."""
    data = state.get("failedData") or state.get("suspendedData") or {}
    error = data.get("error") or {}
    by = {"SERVICE": "the service", "USER": "a user"}.get(state.get("stateInitiator", ""), "")
    return error.get("message") or (f"by {by}" if by else "")


def node_state(resource: Resource) -> str:
    """The state of its node, or what `look` gives for none and for no answer."""
    answer = call(commands.describe_node(resource))
    if answer.code:
        return ABSENT if re.search(r"\bNOT_FOUND\b", answer.err) else UNKNOWN
    try:
        return str(json.loads(answer.out)["state"])
    except (ValueError, LookupError, TypeError):
        return UNKNOWN


def is_quota(told: str) -> bool:
    """Whether an error says that no more of it may be had."""
    return re.search(r"RESOURCE_EXHAUSTED|\bquota\b", told, re.IGNORECASE) is not None


def create(resource: Resource) -> None:
    """Ask for it; raises RunError, with a hint, where it is refused."""
    answer = call(commands.create(resource), CHANGE_SECONDS)
    if answer.code:
        hint = ""
        if is_quota(answer.err):
            kind = "preemptible" if resource.tier == "spot" else "on-demand"
            hint = f"; ask for {kind} quota of {resource.accelerator} in {resource.zone}, "
            hint += "or take another zone (suspended and failed resources count too)"
        raise RunError(f"{resource.name} was not created: {answer.reason}{hint}")


def delete(resource: Resource, seen: Look) -> None:
    """Delete it as it was seen just now; raises RunError if it is not this launcher's own."""
    if seen.state == UNKNOWN:
        _raise_undeleted(resource, seen.reason)
    require_own(resource, seen)
    answer = call(commands.delete(resource), CHANGE_SECONDS)
    if answer.code and not re.search(r"\bNOT_FOUND\b", answer.err):
        _raise_undeleted(resource, answer.reason)


def _raise_undeleted(resource: Resource, reason: str) -> NoReturn:
    by_hand = shlex.join(commands.delete(resource))
    told = f"{resource.name} was not deleted and may go on costing: {reason}"
    raise RunError(f"{told}; try again, or by hand: {by_hand}")


def require_own(resource: Resource, seen: Look) -> None:
    """Refuse a resource without this launcher's label; raises RunError."""
    if seen.state == UNKNOWN:
        raise RunError(f"{resource.name}: its state could not be told: {seen.reason}")
    if seen.state == FOREIGN:
        where = f"{resource.name} in {resource.project}, {resource.zone}"
        raise RunError(f"{where} is {FOREIGN}, and was not touched: {seen.reason}")
