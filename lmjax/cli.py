"""The command line: flags to one call each. `lmjax --help` imports neither jax nor tyro.

The only file that imports tyro, which reads values by their declared types and prints help; names,
swaps and errors are ours (lmjax/overrides.py), so that each refusal is one line.
"""

import contextlib
import errno
import io
import sys
import typing
from collections.abc import Callable, Sequence
from typing import Any

from lmjax import __version__
from lmjax.answer import check_writable, write_json
from lmjax.console import in_one_line
from lmjax.doctor import check_pairing
from lmjax.errors import InputError, RunError, unknown
from lmjax.flags import Parser, check_words, is_plain, take, whole
from lmjax.signals import Stopped

USAGE = """usage: lmjax COMMAND ...

commands:
  train [NAME|PATH.py] [OVERRIDES]  train an experiment; without a name, list them
  train NAME --help                 its fields, their defaults and the parts to choose from
  train NAME --profile START:STOP   trace these steps, and tell what took their time
  train NAME --coordinator HOST:PORT --processes N --process I    one of N processes of a run
  compare NAME|PATH.py [OVERRIDES]  optimizers, or other variants, beside each other [--help]
  describe NAME|PATH.py [OVERRIDES] its parameters, memory and operations, from shapes alone
  plan NAME|PATH.py --topology TPU  its step compiled for chips that are not here
  eval RUN [--help]                 a run's checkpoint on held-out data, beside its baselines
  reproduce RUN [--help]            compute a run again; name the step and the cause of a difference
  eval RUN --choices FILE           how a language model answers multiple-choice questions
  list [DIR] [--help]               the runs below a directory (runs), and their table of results
  report RUN... [--out DIR]         one page of runs: curves, final numbers, differences
  sample RUN [--help]               text from a trained language model
  export RUN --out FOLDER [--help]  its weights as a folder that transformers loads
  data list|describe|prepare ...    data sets: which there are, what they are, how to get them
  doctor                            versions, devices, and whether they fit together

overrides:
  --steps 200 --optimizer.learning-rate 3e-4      any field
  optimizer:muon --optimizer.momentum 0.9         another part, then its fields
  --workdir DIR                                   the run directory (runs/NAME/seedS-DIGEST)
  --strict                                        stop at a damaged checkpoint; take no older one

The same command again resumes a run that was stopped.
"""
COMPUTING = ("train", "compare", "reproduce", "describe", "eval", "sample", "export")  # by JAX


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 1 failed or diverged, 2 bad input, 128 + a signal."""
    words = list(sys.argv[1:] if words is None else words)
    commands: dict[str, Callable[[Sequence[str]], int | None]] = {
        "train": train,
        "compare": compare,
        "reproduce": reproduce,
        "describe": describe,
        "plan": plan,
        "eval": evaluate,
        "list": list_runs,
        "report": report,
        "sample": sample,
        "export": export,
        "data": data,
        "doctor": doctor,
    }
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0

    def call() -> int | None:
        command = commands[_command(words[0], commands)]
        check_words(words)
        if words[0] in COMPUTING:
            check_pairing()
        return command(words[1:])

    return _guarded(call)


def experiment_main(config: Callable[[], Any]) -> None:
    """The main guard of an experiment's module: `lmjax train` of it, with this process's words."""

    def call() -> None:
        check_words(sys.argv[1:])
        check_pairing()
        _launch(config(), sys.argv[1:])

    sys.exit(_guarded(call))


def _command(name: str, commands: dict[str, Any]) -> str:
    if name not in commands:
        raise unknown("command", name, commands)
    return name


def _guarded(call: Callable[[], int | None]) -> int:
    """The exit status of a command; one of several processes that failed ends here."""
    status = _status(call)
    if "lmjax.hosts" in sys.modules:
        sys.modules["lmjax.hosts"].current().end(status)
    return status


def _status(call: Callable[[], int | None]) -> int:
    """Run it; what a user can mend is told in one line. A command that returns nothing is well."""
    try:
        return call() or 0
    except InputError as error:
        print(f"lmjax: {in_one_line(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # which any path of a command can be
            raise
        print(f"lmjax: {in_one_line(str(error.filename))}: the name is too long", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"lmjax: {in_one_line(str(error))}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(f"lmjax: {stopped}", file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        print(
            "lmjax: interrupted; the same command resumes from the newest checkpoint",
            file=sys.stderr,
        )
        return 130


def train(words: Sequence[str]) -> None:
    """`lmjax train`."""
    from lmjax import catalog

    if not words or words[0].startswith("-"):
        print("experiments: " + ", ".join(catalog.names()))
        return
    _launch(catalog.find(words[0]), words[1:], words[0])


def _launch(base: Any, words: Sequence[str], name: str = "") -> None:
    """Train an experiment under the overrides, or print its help."""
    from lmjax import overrides

    if "-h" in words or "--help" in words:
        plain = [word for word in words if word not in ("-h", "--help", "--strict")]
        _print_help(base, plain, name)
        return
    workdir, words = take(words, "--workdir", "a directory")
    profile, words = take(words, "--profile", "START:STOP")
    strict, words = "--strict" in words, [word for word in words if word != "--strict"]
    from lmjax import hosts
    from lmjax.train import run

    asked, words = hosts.read(words)
    experiment = overrides.apply(base, words, parse_value)
    hosts.join(asked)
    _keep_compiled()
    launch = {"base": base, "launched_as": name or None, "profile": profile, "strict": strict}
    with hosts.parting():
        run(experiment, workdir, **launch)


def _keep_compiled() -> None:
    """Keep what is compiled for the next process; a run that cannot goes on without."""
    from lmjax.compilation import use_cache

    try:
        use_cache()
    except InputError as error:
        print(f"lmjax: compiled programs are not kept: {error}", file=sys.stderr)


def parse_value(kind: Any, words: Sequence[str]) -> Any:
    """The words as a value of the declared type, by tyro; raises ValueError."""
    import tyro

    if kind is bool and not words:
        return True
    if {kind, *typing.get_args(kind)} & {int, float} and not all(map(is_plain, words)):
        raise ValueError(f"must be {_type_name(kind)}")
    silence = io.StringIO()
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            return tyro.cli(kind, args=list(words))
    except SystemExit:
        raise ValueError(f"must be {_type_name(kind)}") from None


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    plain = {int: "a whole number", float: "a number", bool: "True or False", str: "one word"}
    return plain.get(kind, str(kind))


def _print_help(base: Any, words: Sequence[str], name: str) -> None:
    """Every field with its default, and the parts that can be swapped in."""
    import tyro

    from lmjax import overrides, parts

    for flag in ("--workdir", "--profile", "--coordinator", "--processes", "--process"):
        _, words = take(words, flag, "a value")
    part = overrides.apply(base, overrides.split(words, base)[0], parse_value)
    with contextlib.suppress(SystemExit):
        tyro.cli(
            type(part),
            default=part,
            args=["--help"],
            prog=f"lmjax train {name or part.name}",
            description="",
            config=(tyro.conf.FlagConversionOff,),
        )
    print("parts:")
    for path, kind in parts.sockets(part).items():
        choices = parts.choices(kind)
        if len(choices) > 1:
            print(f"  {path.replace('_', '-')}:{{{','.join(sorted(choices))}}}")
    print("run directory: --workdir DIR (default: runs/NAME/seedS-DIGEST)")
    print("trace of some steps: --profile START:STOP\nstop at a damaged checkpoint: --strict")
    print("one of several processes: --coordinator HOST:PORT --processes N --process I")


def compare(words: Sequence[str]) -> None:
    """`lmjax compare`."""
    from lmjax.compare import command

    _keep_compiled()
    command.run(words, parse_value)


def describe(words: Sequence[str]) -> None:
    """`lmjax describe`."""
    from lmjax import catalog, describe, overrides

    if not words:
        raise InputError("describe needs the name of an experiment")
    path, rest = take(words[1:], "--json", "a path")
    check_writable(path)
    experiment = overrides.apply(catalog.find(words[0]), rest, parse_value)
    told = describe.describe(experiment)
    print(describe.to_text(told))
    write_json(path, describe.to_json(told))


def plan(words: Sequence[str]) -> None:
    """`lmjax plan`."""
    from lmjax import plan

    plan.run(words, parse_value)


def reproduce(words: Sequence[str]) -> int:
    """`lmjax reproduce`."""
    parser = Parser(prog="lmjax reproduce", description="Compute a run again, step for step.")
    parser.add_argument("run", help="the run directory; nothing is written into it")
    parser.add_argument(
        "--from", dest="start", type=whole, help="the step of a checkpoint to go on from; the seed"
    )
    parser.add_argument("--steps", type=whole, help="how many to compute; all")
    parser.add_argument(
        "--windows", type=whole, help="so many short pieces, spread over the seed and checkpoints"
    )
    parser.add_argument("--cell", help="of a comparison, in place of a run: the ID of one cell")
    parser.add_argument("--code", help="of a cell: the file PATH.py that the comparison is of")
    parser.add_argument("--json", help="where to write what was found")
    given = parser.parse_args(words)
    check_writable(given.json)
    if given.cell is not None:
        return _reproduce_cell(given)
    if given.code is not None:
        raise InputError("reproduce: --code is of a --cell")
    from lmjax.archive import open_run
    from lmjax.reproduce import adjust, reproduce

    held = open_run(given.run)
    for told in adjust(held):
        print(told)
    _keep_compiled()  # where programs for as many cores are kept
    report = reproduce(held, given.start, given.steps, given.windows)
    write_json(given.json, report.record)
    return 0 if report.reproduced else 1


def _reproduce_cell(given: Any) -> int:
    """`lmjax reproduce DIR --cell ID`."""
    if (given.start, given.steps, given.windows) != (None, None, None):
        raise InputError("reproduce: --cell computes the whole cell, and takes no steps")
    from lmjax.compare.rerun import rerun_cell

    _keep_compiled()
    found = rerun_cell(given.run, given.cell, given.code)
    print(found.line)
    write_json(given.json, found.record)
    return 0 if found.reproduced else 1


def evaluate(words: Sequence[str]) -> None:
    """`lmjax eval`."""
    parser = Parser(prog="lmjax eval", description="A checkpoint on held-out data.")
    parser.add_argument("run", help="the run directory; then --data.FIELD VALUE for other data")
    parser.add_argument("--step", type=whole, default=None, help="of the checkpoint; the newest")
    parser.add_argument("--json", help="where to write the numbers")
    questions = 'a file of {"context": "...", "choices": ["...", "..."], "answer": 0} lines'
    parser.add_argument("--choices", help=f"{questions}, in place of held-out data")
    given, rest = parser.parse_known_args(words)
    check_writable(given.json)
    if given.choices is not None:
        _evaluate_choices(given, rest)
        return
    from lmjax import overrides
    from lmjax.evaluate import evaluate_run, to_text
    from lmjax.load import recorded
    from lmjax.parts import replace, validate

    own = recorded(given.run)
    changed = overrides.apply(own, rest, parse_value)
    if replace(changed, "data", own.data) != own:
        raise InputError("eval: only --data.FIELD may be changed")
    validate(changed)
    found = evaluate_run(given.run, given.step, changed.data if rest else None)
    print(to_text(found))
    write_json(given.json, found)


def _evaluate_choices(given: Any, rest: Sequence[str]) -> None:
    """`lmjax eval RUN --choices FILE`."""
    if rest:
        raise InputError(f"eval: --choices takes no further words, but there is {rest[0]!r}")
    from lmjax.choices import evaluate_choices, to_text

    found = evaluate_choices(given.run, given.choices, given.step)
    print(to_text(found))
    write_json(given.json, found)


def list_runs(words: Sequence[str]) -> None:
    """`lmjax list`."""
    parser = Parser(prog="lmjax list", description="The runs below a directory, newest first.")
    parser.add_argument("directory", nargs="?", default="runs", help="default: runs")
    parser.add_argument("--json", help="where to write the list")
    parser.add_argument("--table", help="a README between whose marks to write the results")
    given = parser.parse_args(words)
    check_writable(given.json)
    from lmjax import results, runs

    if given.table is not None:
        results.read_table(given.table)  # before anything is told
    listing = runs.list_runs(given.directory)
    print(runs.to_text(listing, given.directory))
    write_json(given.json, listing.to_json())
    if given.table is not None:
        written = results.write_table(given.table, listing.runs)
        others = f"; {written.others} runs of experiments that are not ours have none"
        print(f"{given.table}: {written.rows} rows" + (others if written.others else ""))


def report(words: Sequence[str]) -> None:
    """`lmjax report`."""
    from lmjax import report

    report.run(words)


def sample(words: Sequence[str]) -> None:
    """`lmjax sample`."""
    from lmjax import sample

    sample.run(words)


def export(words: Sequence[str]) -> None:
    """`lmjax export`."""
    from lmjax.pretrained import export

    export.run(words)


def data(words: Sequence[str]) -> None:
    """`lmjax data`."""
    from lmjax.data import commands

    commands.run(words)


def doctor(words: Sequence[str]) -> None:
    """`lmjax doctor`."""
    from lmjax.doctor import examine

    print(examine())
