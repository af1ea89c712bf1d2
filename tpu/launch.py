"""`python -m tpu.launch VERB`: one launcher for Cloud TPUs, of Python and gcloud alone."""

import contextlib
import re
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence

from lmjax.cli import in_one_line
from lmjax.errors import FieldError, InputError, RunError, check_integer, check_number, unknown
from lmjax.flags import Parser, number, whole
from tpu import accelerators, archive, cloud, commands, cost, records
from tpu.babysit import SLOWER, SLOWEST, Babysitter, Clock, Limits, plan
from tpu.commands import Command
from tpu.records import Resource

USAGE = """usage: python -m tpu.launch VERB ... [--dry-run] [--yes]

  create NAME ...           ask for a slice in the queue; it is paid for while it is ACTIVE
  status [NAME] [--wait]    of what was created from here: its state and cost
  setup NAME                worker script and Python, onto every worker
  push NAME                 this checkout and what it depends on, onto every worker
  run NAME -- WORD...       a command on every worker, detached: lmjax train ...
  logs NAME [--follow]      what the run writes
  stop NAME                 tell the run to save and to end
  babysit NAME -- WORD...   all of this until the run is complete, again after each preemption
  delete NAME               only what was created from here

VERB --help tells its flags. --dry-run prints the commands and executes none; --yes asks nothing.
"""
NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]")
ZONE = re.compile(r"[a-z]+-[a-z]+\d+-[a-z]")
POLL = 60.0  # seconds
OPTIONS = ("network", "subnetwork", "service-account", "valid-until-duration")


def main(words: Sequence[str] | None = None) -> int:
    """Run one verb; returns 0, 1 failed, 2 bad input, 130 interrupted, or the run's exit status."""
    words = list(sys.argv[1:] if words is None else words)
    verbs: dict[str, Callable[[Sequence[str]], int | None]] = {
        "create": create,
        "status": status,
        "setup": setup,
        "push": push,
        "run": run,
        "logs": logs,
        "stop": stop,
        "babysit": babysit,
        "delete": delete,
    }
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    try:
        if words[0] not in verbs:
            raise unknown("verb", words[0], verbs)
        return verbs[words[0]](words[1:]) or 0
    except InputError as error:
        return _tell(error, 2)
    except RunError as error:
        return _tell(error, 1)
    except KeyboardInterrupt:
        left = "what was created goes on costing; `python -m tpu.launch status` lists it"
        return _tell(f"interrupted: {left}", 130)


def create(words: Sequence[str]) -> None:
    """`create NAME`."""
    parser = _parser("create", "Ask for a slice in the queue of a zone.")
    parser.add_argument("--project", required=True)
    parser.add_argument("--zone", required=True, help="such as us-west4-a")
    parser.add_argument("--accelerator", required=True, help="such as v5litepod-16, v5p-8, v6e-8")
    parser.add_argument("--price", required=True, type=number, help="dollars a chip and hour")
    parser.add_argument("--tier", default=records.TIERS[0], help=", ".join(records.TIERS))
    parser.add_argument("--runtime-version", help="default: the image of the generation")
    for option in OPTIONS:
        parser.add_argument(f"--{option}", help="handed to gcloud")
    given = parser.parse_args(words)
    resource = _resource(given)
    if resource.name in records.names():
        told = "`status` tells its state, and `delete` forgets what is no more"
        raise InputError(f"{resource.name} was created from here already; {told}")
    command = commands.create(resource)
    if _dry(given, [command]):
        return
    _confirm(given, f"{resource.tier} {resource.accelerator}: {cost.rate(resource)}. Create?")
    records.save(resource)
    try:
        cloud.create(resource)
    except RunError as error:
        # What is known not to be ours is forgotten; what may be, and may cost, is not.
        state = cloud.look(resource).state
        if state in (cloud.ABSENT, cloud.FOREIGN):
            records.forget(resource)
        elif state == cloud.UNKNOWN:
            told = f"whether it is there could not be told, so `delete {resource.name}` it later"
            raise RunError(f"{error}; {told}") from None
        raise
    print(f"{resource.name} is asked for; `status {resource.name} --wait` waits for it")


def _resource(given: Namespace) -> Resource:
    """The record of what is to be created; raises InputError for what no cloud would take."""
    checks = (
        ("NAME", given.name, NAME, "lower-case letters, digits and hyphens, a letter first"),
        ("--project", given.project, PROJECT, "a project's ID, such as my-project"),
        ("--zone", given.zone, ZONE, "a zone, such as us-west4-a"),
    )
    for field, value, pattern, allowed in checks:
        if not pattern.fullmatch(value):
            raise FieldError(field, value, f"must be {allowed}")
    if given.tier not in records.TIERS:
        raise unknown("tier", given.tier, records.TIERS)
    check_number("--price", given.price, least=0.0)
    accelerators.chips(given.accelerator)
    options = {option: getattr(given, option.replace("-", "_")) for option in OPTIONS}
    return Resource(
        name=given.name,
        project=given.project,
        zone=given.zone,
        accelerator=given.accelerator,
        runtime=given.runtime_version or accelerators.generation(given.accelerator).runtime,
        tier=given.tier,
        price=given.price,
        options={name: value for name, value in options.items() if value is not None},
        owner=records.owner(),
        looked=time.time(),
    )


def status(words: Sequence[str]) -> int:
    """`status [NAME]`."""
    parser = _parser("status", "State and cost of what was created from here.", name="?")
    parser.add_argument("--wait", action="store_true", help="until it is ACTIVE, or lost")
    parser.add_argument("--poll", type=number, default=POLL, help="seconds between first looks")
    given = parser.parse_args(words)
    check_number("--poll", given.poll, above=0.0)
    held, damaged = ([records.load(given.name)], []) if given.name else records.load_all()
    for told in damaged:
        print(told, file=sys.stderr)
    if _dry(given, [commands.describe(resource) for resource in held]):
        return 0
    if not held:
        print("nothing was created from here")
    wait = given.poll
    while True:
        seen = [_glance(each) for each in held]
        lost = [each for each in seen if each.state in cloud.LOST or each.state in cloud.NOT_OURS]
        if not given.wait or lost or all(each.state == cloud.ACTIVE for each in seen):
            return 1 if lost and given.wait else 0
        time.sleep(wait)
        wait = min(wait * SLOWER, SLOWEST * given.poll)


def _look(resource: Resource) -> cloud.Look:
    """At one in this process's hands, with a line that tells what was seen; notes its cost."""
    seen = cloud.look(resource)
    _account(resource, seen)
    return _shown(resource, seen)


def _glance(resource: Resource) -> cloud.Look:
    """At one that may be in other hands, which do its accounts themselves; else notes its cost."""
    seen = cloud.look(resource)
    # Read anew, since others may have written meanwhile; one that they have deleted stays so.
    with contextlib.suppress(InputError):
        resource = records.load(resource.name)
        with records.claim(resource.name):
            resource = records.load(resource.name)
            _account(resource, seen)
    return _shown(resource, seen)


def _account(resource: Resource, seen: cloud.Look) -> None:
    """Note what it has cost."""
    cost.account(resource, seen.state, time.time())
    records.save(resource)


def _shown(resource: Resource, seen: cloud.Look) -> cloud.Look:
    """The same, with a line that tells it."""
    told = [f"{resource.name}: {seen.state}", *([seen.reason] if seen.reason else [])]
    spent = f"at most ${cost.so_far(resource):.2f} so far, {cost.rate(resource)}"
    print(f"{'; '.join(told)} [{spent}]", flush=True)
    return seen


def setup(words: Sequence[str]) -> None:
    """`setup NAME`."""
    given = _parser("setup", "Worker script and Python, onto every worker.").parse_args(words)
    with _claimed(given) as resource:
        _on_workers(given, resource, commands.setup(resource))


def push(words: Sequence[str]) -> None:
    """`push NAME`."""
    given = _parser("push", "This checkout, onto every worker.").parse_args(words)
    with _claimed(given) as resource:
        path, packed = archive.pack()
        if not given.dry_run:
            path.write_bytes(packed)
        _on_workers(given, resource, commands.push(resource, path))
        if not given.dry_run:
            resource.pushed = path.name
            records.save(resource)


def run(words: Sequence[str]) -> None:
    """`run NAME -- WORD...`."""
    words, command = _split(words, "run")
    given = _parser("run", "The command behind -- on every worker, detached.").parse_args(words)
    with _claimed(given) as resource:
        _on_workers(given, resource, [commands.start(resource, command)])
        if not given.dry_run:
            resource.command = command
            records.save(resource)


def logs(words: Sequence[str]) -> None:
    """`logs NAME`."""
    parser = _parser("logs", "What the run writes, on one worker or on all.")
    parser.add_argument("--lines", type=whole, default=50, help="of each worker; 50")
    parser.add_argument("--worker", default="all", help="its number; all")
    parser.add_argument("--follow", action="store_true", help="until Ctrl-C")
    given = parser.parse_args(words)
    check_integer("--lines", given.lines, least=1)
    if not re.fullmatch(r"all|\d+", given.worker, re.ASCII):
        raise FieldError("--worker", given.worker, "must be a number, or all")
    resource = records.load(given.name)
    asked = ["log", str(given.lines), *(["follow"] if given.follow else [])]
    steps = [commands.ask(resource, *asked, worker=given.worker)]
    _on_workers(given, resource, steps, _glance)


def stop(words: Sequence[str]) -> None:
    """`stop NAME`."""
    given = _parser("stop", "Tell the run to save and to end.").parse_args(words)
    resource = records.load(given.name)
    steps = [commands.ask(resource, "stop")]
    _on_workers(given, resource, steps, _glance)


def babysit(words: Sequence[str]) -> int:
    """`babysit NAME -- WORD...`."""
    words, command = _split(words, "babysit")
    parser = _parser(
        "babysit", "Keep the run behind -- alive until it is complete, then delete the slice."
    )
    parser.add_argument("--max-hours", required=True, type=number, help="of being ACTIVE, in all")
    parser.add_argument("--max-restarts", type=whole, default=10, help="in all; 10")
    parser.add_argument("--poll", type=number, default=POLL, help="seconds between first looks; 60")
    parser.add_argument("--keep", action="store_true", help="do not delete the resource at the end")
    given = parser.parse_args(words)
    check_number("--max-hours", given.max_hours, above=0.0)
    check_integer("--max-restarts", given.max_restarts, least=0)
    check_number("--poll", given.poll, above=0.0)
    _require_workdir(command)
    with _claimed(given) as resource:
        return _babysit(given, resource, command)


def _babysit(given: Namespace, resource: Resource, command: list[str]) -> int:
    """The loop, or its plan, of a resource that is in this process's hands."""
    if resource.command not in ([], command):
        held = shlex.join(resource.command)
        raise InputError(f"{given.name} has another run: {held}; `run` replaces one that has ended")
    path, packed = archive.pack()
    if given.dry_run:
        for when, what in plan(resource, path, command):
            print(f"# {when}")
            _dry(given, what)
        return 0
    most = cost.hourly(resource) * given.max_hours
    limit = f"at most {given.max_hours:g} hours (${most:.2f}) and {given.max_restarts} restarts"
    _confirm(given, f"{cost.rate(resource)}; {limit}. Go on?")
    path.write_bytes(packed)
    resource.command = command
    records.save(resource)
    limits = Limits(given.max_hours, given.max_restarts, given.poll, given.keep)
    return Babysitter(resource, path, command, limits, Clock(), _say).run()


def _require_workdir(command: Sequence[str]) -> None:
    """Refuse a run that would not survive its workers."""
    pairs = zip(command, [*command[1:], ""], strict=True)
    told = [word.partition("=")[2] or after for word, after in pairs if "--workdir" in word]
    if not any(re.match(r"gs://\S", path) for path in told):
        raise InputError(
            "babysit: the command needs --workdir gs://BUCKET/RUN: whatever lies on the workers "
            "is lost with them"
        )


def delete(words: Sequence[str]) -> None:
    """`delete NAME`."""
    given = _parser("delete", "Delete what was created from here.").parse_args(words)
    with _claimed(given) as resource:
        if _dry(given, [commands.describe(resource), commands.delete(resource)]):
            return
        seen = _look(resource)
        if seen.state != cloud.ABSENT:
            cloud.require_own(resource, seen)
            told = f"{resource.name} is {seen.state}; whatever lies on it is lost"
            _confirm(given, f"{told}. Delete?")
            cloud.delete(resource, seen)
            cost.account(resource, cloud.ABSENT, time.time())
        records.forget(resource)
        print(f"{resource.name} is gone; it has cost at most ${cost.so_far(resource):.2f}")


@contextlib.contextmanager
def _claimed(given: Namespace) -> Iterator[Resource]:
    """The record, in this process's hands unless it only prints; raises InputError for others'."""
    resource = records.load(given.name)
    if given.dry_run:
        yield resource
        return
    with records.claim(resource.name):
        yield records.load(given.name)  # as the process before has left it


def _parser(verb: str, description: str, name: str | None = None) -> Parser:
    """With what every verb has."""
    parser = Parser(prog=f"tpu.launch {verb}", description=description)
    parser.add_argument("name", nargs=name, metavar="NAME")
    parser.add_argument("--dry-run", action="store_true", help="print the commands; execute none")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    return parser


def _split(words: Sequence[str], verb: str) -> tuple[list[str], list[str]]:
    """(the launcher's words, the run's), which stand behind the first `--`."""
    words = list(words)
    at = words.index("--") if "--" in words else len(words)
    wants_help = {"-h", "--help"} & set(words[:at])
    if not words[at + 1 :] and not wants_help:
        raise InputError(f"{verb}: the command is missing: {verb} NAME -- lmjax train ...")
    return words[:at], words[at + 1 :]


def _on_workers(
    given: Namespace,
    resource: Resource,
    steps: Sequence[Command],
    look: Callable[[Resource], cloud.Look] = _look,
) -> None:
    """Execute the steps, if it is this launcher's own resource and there are workers."""
    if _dry(given, [commands.describe(resource), *steps]):
        return
    seen = look(resource)
    if seen.state == cloud.ABSENT:
        raise RunError(f"{resource.name} is not there any more; `delete` forgets it")
    cloud.require_own(resource, seen)
    if seen.state != cloud.ACTIVE:
        raise RunError(f"{resource.name} is {seen.state} and has no workers yet, or none any more")
    for step in steps:
        cloud.show(step)


def _dry(given: Namespace, steps: Sequence[Command]) -> bool:
    """Print the commands as a shell would take them, if that is all that is asked for."""
    if given.dry_run:
        for step in steps:
            print(shlex.join(step))
    return given.dry_run


def _confirm(given: Namespace, question: str) -> None:
    """Raises RunError unless the user says yes."""
    if given.yes:
        return
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        answer = ""
        print()
    if answer.strip().lower() not in ("y", "yes"):
        raise RunError("not confirmed, so nothing was done; --yes where nobody can answer")


def _say(told: str) -> None:
    print(time.strftime("%H:%M:%S "), told, sep="", flush=True)


def _tell(error: object, code: int) -> int:
    print(f"tpu.launch: {in_one_line(str(error))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
