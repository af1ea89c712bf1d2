"""`lmjax data VERB`: what data there is, what it is, and how it gets onto the disk."""

from collections.abc import Callable, Sequence

from lmjax.errors import unknown
from lmjax.flags import Parser, number

USAGE = """usage: lmjax data VERB ...

verbs:
  list [--data-dir DIR]              data sets: size, licence, whether they are on this disk
  describe SOURCE [--data-dir DIR]   splits, features, licence, citation, digest
  prepare tfds:NAME [--data-dir DIR] write a TFDS data set so that it is read without TensorFlow
  tokenize TEXT --out DIR [--help]   write a text as token ids, once, to train on tokens:DIR
"""


def run(words: Sequence[str]) -> None:
    """Run one verb."""
    verbs: dict[str, Callable[[Sequence[str]], None]] = {
        "list": list_sets,
        "describe": describe,
        "prepare": prepare,
        "tokenize": tokenize,
    }
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return
    if words[0] not in verbs:
        raise unknown("verb of data", words[0], verbs)
    verbs[words[0]](words[1:])


def list_sets(words: Sequence[str]) -> None:
    """`lmjax data list`."""
    parser = Parser(prog="lmjax data list", description="Data sets that are here or embedded.")
    parser.add_argument("--data-dir", default="", help="of TFDS; TFDS_DATA_DIR or its usual one")
    given = parser.parse_args(words)
    from lmjax.data.catalogue import table

    print(table(given.data_dir))


def describe(words: Sequence[str]) -> None:
    """`lmjax data describe`."""
    parser = Parser(prog="lmjax data describe", description="One data set, as it is on this disk.")
    parser.add_argument("source", help="digits, tfds:NAME, images:PATH ...")
    parser.add_argument("--data-dir", default="", help="of TFDS; TFDS_DATA_DIR or its usual one")
    given = parser.parse_args(words)
    from lmjax.data.catalogue import describe

    print(describe(given.source, given.data_dir))


def prepare(words: Sequence[str]) -> None:
    """`lmjax data prepare`."""
    parser = Parser(
        prog="lmjax data prepare",
        description="Write a data set of TFDS as array_record. An embedded one is written by this "
        "process; any other by TFDS in a throw-away environment that has TensorFlow, under uv.",
    )
    parser.add_argument("source", help="tfds:NAME[/CONFIG][:VERSION]")
    parser.add_argument("--data-dir", default="", help="of TFDS; TFDS_DATA_DIR or its usual one")
    given = parser.parse_args(words)
    from lmjax.data.prepare import prepare

    print(prepare(given.source, given.data_dir))


def tokenize(words: Sequence[str]) -> None:
    """`lmjax data tokenize`."""
    parser = Parser(
        prog="lmjax data tokenize",
        description="Write a text as token ids, which training maps into memory. A command that "
        "was killed is started again with the same words.",
    )
    parser.add_argument("source", help="python_docs, python_stdlib, text:PATH or tfds:NAME")
    parser.add_argument("--out", required=True, help="folder to write; it must not exist")
    parser.add_argument(
        "--tokenizer",
        default="bytes",
        help="bytes; bpe:N, to learn N ids from the training text; or the path of a tokenizer.json",
    )
    parser.add_argument(
        "--validation-fraction",
        type=number,
        default=0.1,
        help="of the text, from its end, where the source has no validation part; 0.1",
    )
    parser.add_argument("--data-dir", default="", help="of TFDS; TFDS_DATA_DIR or its usual one")
    given = parser.parse_args(words)
    from lmjax.data.tokenize import tokenize

    print(
        tokenize(
            given.source, given.out, given.tokenizer, given.validation_fraction, given.data_dir
        )
    )
