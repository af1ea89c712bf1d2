"""The command line: flags to one call each. `lmjax --help` imports neither jax nor tyro.

The only file that imports tyro, which reads values by their declared types and prints help; names,
swaps and errors are ours (lmjax/overrides.py), so that each refusal is one line.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lmjax import __version__
from lmjax.errors import InputError, RunError, unknown
from lmjax.signals import Stopped

USAGE = """usage: lmjax COMMAND ...

commands:
  train [NAME|PATH.py] [OVERRIDES]  train an experiment; without a name, list them
  train NAME --help                 its fields, their defaults and the parts to choose from
  describe NAME|PATH.py [OVERRIDES] its parameters: shape, axes, role, decay; their number
  sample RUN [--help]               text from a trained language model
  doctor                            versions, devices, and whether they fit together

overrides:
  --steps 200 --optimizer.learning-rate 3e-4      any field
  optimizer:muon --optimizer.momentum 0.9         another part, then its fields
  --workdir DIR                                   the run directory (runs/NAME/seedS-DIGEST)

The same command again resumes a run that was stopped.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 failed, 2 bad input, 128 + signal."""
    words = list(sys.argv[1:] if words is None else words)
    commands: dict[str, Callable[[Sequence[str]], None]] = {
        "train": train,
        "describe": describe,
        "sample": sample,
        "doctor": doctor,
    }
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    return _guarded(lambda: commands[_command(words[0], commands)](words[1:]))


def experiment_main(config: Callable[[], Any]) -> None:
    """The main guard of an experiment's module: `lmjax train` of it, with this process's words."""
    sys.exit(_guarded(lambda: _launch(config(), sys.argv[1:])))


def _command(name: str, commands: dict[str, Any]) -> str:
    if name not in commands:
        raise unknown("command", name, commands)
    return name


def _guarded(call: Callable[[], None]) -> int:
    """Run it; what a user can mend is told in one line."""
    try:
        call()
    except InputError as error:
        print(f"lmjax: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"lmjax: {error}", file=sys.stderr)
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
    return 0


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
        _print_help(base, [word for word in words if word not in ("-h", "--help")], name)
        return
    workdir, words = _take(words, "--workdir")
    experiment = overrides.apply(base, words, parse_value)
    from lmjax.train import run

    run(experiment, workdir, base=base, launched_as=name or None)


def parse_value(kind: Any, words: Sequence[str]) -> Any:
    """The words as a value of the declared type, by tyro; raises ValueError."""
    import tyro

    if kind is bool and not words:
        return True
    silence = io.StringIO()
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            return tyro.cli(kind, args=list(words))
    except SystemExit:
        raise ValueError(f"must be {_type_name(kind)}") from None


def _type_name(kind: Any) -> str:
    import typing

    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    plain = {int: "a whole number", float: "a number", bool: "True or False", str: "one word"}
    return plain.get(kind, str(kind))


def _print_help(base: Any, words: Sequence[str], name: str) -> None:
    """Every field with its default, and the parts that can be swapped in."""
    import tyro

    from lmjax import overrides, parts

    swaps, _ = overrides.split(_take(words, "--workdir")[1])
    part = overrides.apply(base, swaps, parse_value)
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
        choices = parts.alternatives(kind)
        if len(choices) > 1:
            print(f"  {path.replace('_', '-')}:{{{','.join(sorted(choices))}}}")
    print("run directory: --workdir DIR (default: runs/NAME/seedS-DIGEST)")


def _take(words: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of a flag that is ours and not the experiment's, and the other words."""
    rest, value = [], None
    pending = iter(words)
    for word in pending:
        if word == flag or word.startswith(f"{flag}="):
            value = word.partition("=")[2] or next(pending, "")
            if not value:
                raise InputError(f"{flag} needs a directory")
        else:
            rest.append(word)
    return value, rest


def describe(words: Sequence[str]) -> None:
    """`lmjax describe`."""
    from lmjax import catalog, overrides, summary, train

    if not words:
        raise InputError("describe needs the name of an experiment")
    experiment = overrides.apply(catalog.find(words[0]), words[1:], parse_value)
    _, batch = train.prepare(experiment)
    print(summary.describe(experiment, batch))


def sample(words: Sequence[str]) -> None:
    """`lmjax sample`."""
    parser = _Parser(prog="lmjax sample", description="Text from a trained language model.")
    parser.add_argument("run", help="the run directory")
    parser.add_argument("--prompt", default="The ", help="text to go on from")
    parser.add_argument("--length", type=int, default=400, help="bytes to write")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 = the likeliest byte")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--step", type=int, default=None, help="of the checkpoint; the newest")
    given = parser.parse_args(words)
    from lmjax.sample import sample

    print(sample(given.run, given.prompt, given.length, given.temperature, given.seed, given.step))


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str):
        raise InputError(f"{self.prog.removeprefix('lmjax ')}: {message}")


def doctor(words: Sequence[str]) -> None:
    """`lmjax doctor`."""
    from lmjax.doctor import examine

    print(examine())
