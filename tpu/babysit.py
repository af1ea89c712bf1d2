"""The loop that keeps a run alive: wait, prepare, start, watch, and begin anew after preemption.

It acts on its own resource only, spends no more than it was allowed, and never takes a cloud that
cannot be reached for one that has lost the resource. The same `lmjax train ... --workdir gs://...`
resumes by itself, so all that is needed is to start it again.
"""

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lmjax.errors import PEER_GONE, RunError
from tpu import cloud, commands, cost, records
from tpu.cloud import Look
from tpu.records import Resource

SLOWEST = 10  # the longest pause, in polls
SLOWER = 1.5  # each pause is so much longer while nothing changes
SILENT_LOOKS = 10  # polls without an answer from the workers, after which they are given up
DOUBTS = 5  # looks at a failed run, some 8 minutes, before it is believed: not preempted
GRACE = 10  # polls for a run that was told to stop, to save
PREPARE_SECONDS = 1800.0  # for one step of it, after which the workers have not answered
LOG_LINES = 200  # kept of each worker's log when the resource goes
FAILED = 1  # of itself
NEVER_BEGUN = {2, 126, 127}  # bad input, no such command
CONNECTION = 255  # ssh's own exit status
REFUSED = 3  # the worker script's
STOPPED = {130, 143}  # by SIGINT, SIGTERM, after saving
LOST_RUN = 137  # as if it was killed: a worker that was rebooted
TELLING = {  # places of what the workers' runs have ended with; the first of them tells why
    **dict.fromkeys(NEVER_BEGUN, 0),
    FAILED: 1,
    PEER_GONE: 3,  # tells only of another, which may have nothing to tell any more
    **dict.fromkeys(STOPPED, 4),  # by hand, if nothing else has happened
}
DIED = 2  # the place of all others: killed, crashed


class Limits(NamedTuple):
    """What babysit may do."""

    hours: float  # of being ACTIVE, over the whole life of the record
    restarts: int
    poll: float  # seconds
    keep: bool  # the resource, at the end


class Clock(NamedTuple):
    """Time, as the loop has it."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


class Ended(Exception):
    """The loop is over, with this exit status."""

    def __init__(self, code: int, why: str):
        self.code, self.why = code, why
        super().__init__(why)


class Babysitter:
    """One resource, one run."""

    def __init__(
        self,
        resource: Resource,
        archive: Path,
        words: Sequence[str],
        limits: Limits,
        clock: Clock,
        say: Callable[[str], None],
    ):
        self.resource, self.archive, self.words = resource, archive, list(words)
        self.limits, self.clock, self._say = limits, clock, say
        self.wait, self.phase = limits.poll, ""
        self.silent = self.doubts = 0
        self.begun = False  # the run is one that this loop has started or seen going on

    def run(self) -> int:
        """Until the run has ended; 0, or the run's exit status, or 1 where a limit was met."""
        try:
            while True:
                self.turn()
        except Ended as end:
            self.finish(end)
            return end.code

    def turn(self) -> None:
        """One look, and what follows from it."""
        seen = self.look()
        if seen.state == cloud.FOREIGN:
            cloud.require_own(self.resource, seen)
        if self.resource.billed >= 3600 * self.limits.hours:
            self.stop(seen)
            raise Ended(1, f"--max-hours {self.limits.hours:g} are over")
        if seen.state == cloud.ABSENT or seen.state in cloud.LOST:
            self.renew(seen)
        elif seen.state == cloud.ACTIVE and self.resource.pushed != self.archive.name:
            self.prepare()
        elif seen.state == cloud.ACTIVE:
            self.tend()
        else:  # it waits, or is about to go, or cannot be seen
            self.pause(seen.state)

    def look(self) -> Look:
        """At the resource, with its cost."""
        seen = cloud.look(self.resource)
        cost.account(self.resource, seen.state, self.clock.now())
        self.note()
        if seen.state != cloud.ACTIVE:  # of which the workers tell more
            self.say(f"{seen.state}{': ' + seen.reason if seen.reason else ''}")
        return seen

    def renew(self, seen: Look) -> None:
        """Delete what was lost and ask for it again; only what is granted counts as a restart."""
        why = f"{self.resource.name} was lost ({seen.state})"
        self.check_restarts(why)
        try:
            if seen.state != cloud.ABSENT:
                cloud.delete(self.resource, seen)
            self.resource.pushed = ""
            self.silent = self.doubts = 0
            self.note()
            cloud.create(self.resource)
        except RunError as error:  # quota that is not free yet, a network that is away
            self.say(f"{why}; {error}")
        else:
            self.count_restart(why)
        self.pause("renewed")

    def prepare(self) -> None:
        """Worker script, Python and code onto workers that have just come up, and the run."""
        asked = cloud.call(commands.ask(self.resource, "status"), cloud.POLL_SECONDS)
        self.say("preparing the workers")
        steps = [*commands.setup(self.resource), *commands.push(self.resource, self.archive)]
        if " running" in asked.out:  # by a babysit that was ended before it could note it
            steps = []
        for step in [*steps, commands.start(self.resource, self.words)]:
            answer = cloud.call(step, min(PREPARE_SECONDS, max(self.left(), cloud.POLL_SECONDS)))
            if answer.code:
                self.unprepared(answer)
                return
        self.resource.pushed, self.begun = self.archive.name, True
        self.silent = self.doubts = 0
        self.note()
        self.say("started")

    def unprepared(self, answer: cloud.Answer) -> None:
        """A step of preparing failed: by the connection, which can be mended, or by itself."""
        self.check_refused(answer)
        self.doubts += 1
        if answer.code == CONNECTION or cloud.node_state(self.resource) != "READY":
            self.doubts = 0
        elif self.doubts >= DOUBTS:
            raise Ended(1, f"the workers could not be prepared: {answer.reason}")
        self.unanswered(answer.reason)

    def tend(self) -> None:
        """Ask the workers how the run is, and act on it."""
        answer = cloud.call(commands.ask(self.resource, "status"), cloud.POLL_SECONDS)
        told = re.findall(r"^lmjax-worker \S+ (\w+) ?(\d*)\s*$", answer.out, re.MULTILINE)
        if answer.code or not told:
            self.unanswered(answer.reason)
            return
        self.silent = 0
        states = [state for state, _ in told]
        codes = [int(code) for state, code in told if state == "exit"]
        bad = [code for code in codes if code] + [LOST_RUN] * states.count("lost")
        if bad and not self.begun:  # of a run that ended before; it is asked for again
            self.halt()
            self.start()
        elif bad:
            self.failed(most_telling(bad))
        elif states.count("idle"):
            self.start()
        elif len(codes) == len(states):
            raise Ended(0, "the run is complete")
        else:
            self.doubts, self.begun = 0, True
            self.say(f"running on {len(states)} worker{'s' if len(states) > 1 else ''}")
            self.pause("running")

    def failed(self, code: int) -> None:
        """Workers have ended badly: preempted, which shows only after a while, or by themselves."""
        self.doubts += 1
        if self.doubts < DOUBTS and code not in NEVER_BEGUN:
            self.say(f"exit status {code}; looking whether it was preempted")
            self.pause("failed")
        elif code in {FAILED, *NEVER_BEGUN}:
            raise Ended(code, f"the run failed by itself with exit status {code}")
        elif code in STOPPED:
            raise Ended(code, "the run was stopped by hand, and has saved")
        else:
            why = f"the run died with exit status {code}"
            self.check_restarts(why)
            self.count_restart(why)
            self.doubts = 0
            self.halt()
            self.start()

    def unanswered(self, reason: str) -> None:
        """No answer from the workers: a node that is gone, or a connection that is."""
        self.silent += 1
        node = cloud.node_state(self.resource)
        self.say(f"no answer from the workers (node {node}): {reason}")
        gone = node in cloud.NODE_LOST or node == cloud.ABSENT
        if gone or (self.silent >= SILENT_LOOKS and node != cloud.UNKNOWN):
            seen = self.look()
            if seen.state == cloud.ACTIVE:
                self.renew(seen._replace(state=f"node {node}"))
                return
        self.pause("unanswered")

    def start(self) -> None:
        """The run on workers that have none; the next turn tells what became of it."""
        answer = cloud.call(commands.start(self.resource, self.words))
        self.check_refused(answer)
        if answer.code:
            self.unanswered(answer.reason)
        else:
            self.begun = True
            self.say("started")

    def check_refused(self, answer: cloud.Answer) -> None:
        """A worker that does another run is left alone: this loop ends, and deletes nothing."""
        if answer.code == REFUSED:
            told = answer.out.strip().splitlines()
            raise RunError(f"{self.resource.name}: {told[-1] if told else answer.reason}")

    def stop(self, seen: Look) -> None:
        """Tell the run to save and to end, if it is there to be told."""
        if seen.state == cloud.ACTIVE and self.resource.pushed:
            self.halt()

    def halt(self) -> None:
        """On every worker; waits for the last one, but not for ever."""
        cloud.call(commands.ask(self.resource, "stop"), cloud.POLL_SECONDS)
        for _ in range(GRACE):
            answer = cloud.call(commands.ask(self.resource, "status"), cloud.POLL_SECONDS)
            if answer.code or " running" not in answer.out:
                return
            self.clock.sleep(self.limits.poll)
        # One that hears nothing any more would keep its place, and the others would wait for it.
        cloud.call(commands.ask(self.resource, "kill"), cloud.POLL_SECONDS)

    def finish(self, end: Ended) -> None:
        """Keep the log, let go of the resource, and tell what it has cost."""
        self.say(end.why)
        seen = self.look()
        if seen.state == cloud.ACTIVE and self.resource.pushed:
            self.keep_log()
        if self.limits.keep:
            self.say(f"kept, and costing: {cost.rate(self.resource)}")
            return
        self.let_go(seen)
        cost.account(self.resource, cloud.ABSENT, self.clock.now())
        records.forget(self.resource)
        self.say("deleted")

    def keep_log(self) -> None:
        """The last lines of each worker's, if the disk takes them; deletion follows either way."""
        log = records.folder() / f"{self.resource.name}.log"
        asked = commands.ask(self.resource, "log", str(LOG_LINES))
        told = cloud.call(asked, cloud.POLL_SECONDS).out
        try:
            log.write_text(told, encoding="utf-8")
            self.say(f"the last lines of each worker's log: {log}")
        except OSError as error:
            self.say(f"the workers' logs could not be kept: {error}")

    def let_go(self, seen: Look) -> None:
        """Delete the resource, trying for a while, since it costs; raises RunError at last."""
        for left in reversed(range(GRACE)):
            try:
                if seen.state != cloud.ABSENT:
                    cloud.delete(self.resource, seen)
                return
            except RunError as error:
                if not left or seen.state == cloud.FOREIGN:
                    raise
                self.say(str(error))
            self.pause("deleting")
            seen = self.look()

    def check_restarts(self, why: str) -> None:
        """Raises Ended where there are no more."""
        if self.resource.restarts >= self.limits.restarts:
            raise Ended(1, f"{why}, and --max-restarts {self.limits.restarts} are used up")

    def count_restart(self, why: str) -> None:
        """One more."""
        self.resource.restarts += 1
        self.note()
        self.say(f"{why}; restart {self.resource.restarts} of at most {self.limits.restarts}")

    def pause(self, phase: str) -> None:
        """Until the next look: longer in each phase, but not past what may be spent."""
        if phase != self.phase:
            self.phase, self.wait = phase, self.limits.poll
        spending = self.resource.active and self.left() > 0
        self.clock.sleep(min(self.wait, self.left() + 1) if spending else self.wait)
        self.wait = min(self.wait * SLOWER, SLOWEST * self.limits.poll)

    def left(self) -> float:
        """Seconds of being ACTIVE that may still be spent."""
        return 3600 * self.limits.hours - self.resource.billed

    def note(self) -> None:
        """Write the record; where the disk is full, this process still knows it, and goes on."""
        try:
            records.save(self.resource)
        except OSError as error:
            self.say(f"its record could not be written: {error}")

    def say(self, told: str) -> None:
        """With the cost; what a full disk or a closed terminal does not take is not told."""
        spent = f"at most ${cost.so_far(self.resource):.2f} so far"
        with contextlib.suppress(OSError, UnicodeError):
            self._say(f"{self.resource.name}: {told} [{spent}]")


def most_telling(codes: Sequence[int]) -> int:
    """Of the workers' exit statuses the one that tells why the run has ended."""
    return min(codes, key=lambda code: TELLING.get(code, DIED))


def plan(
    resource: Resource, archive: Path, words: Sequence[str]
) -> list[tuple[str, list[commands.Command]]]:
    """(when, what) the loop may execute."""
    ask = commands.ask
    return [
        ("to see how it is", [commands.describe(resource)]),
        (
            "when it has come up",
            [
                *commands.setup(resource),
                *commands.push(resource, archive),
                commands.start(resource, words),
            ],
        ),
        ("to see how the run is", [ask(resource, "status")]),
        ("to begin a run again", [ask(resource, "stop"), commands.start(resource, words)]),
        ("where it does not stop", [ask(resource, "kill")]),
        ("where the workers do not answer", [commands.describe_node(resource)]),
        ("after preemption", [commands.delete(resource), commands.create(resource)]),
        (
            "at the end",
            [
                ask(resource, "stop"),
                ask(resource, "log", str(LOG_LINES)),
                commands.delete(resource),
            ],
        ),
    ]
