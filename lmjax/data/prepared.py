"""Data sets of TFDS as they lie on the disk: found, opened and read without TensorFlow.

TFDS keeps a set in DATA_DIR/NAME[/CONFIG]/VERSION. Only sets prepared as array_record can be read
by index, and so only those are read here. The embedded ones are written when first asked for.
"""

import contextlib
import dataclasses
import difflib
import functools
import importlib.util
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from lmjax.data import embedded
from lmjax.errors import FieldError, InputError, unknown
from lmjax.runfiles import read_object

PREFIX = "tfds:"  # of a source that names a data set of TFDS
RECORDS = "array_record"  # the one format that is read by index
INFO = "dataset_info.json"  # in every complete data set
NAME = re.compile(r"([a-zA-Z]\w*)(?:/([\w+-][\w+.-]*))?(?::(\d+\.\d+\.\d+))?", re.ASCII)
VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
FEATURES = "features.json"  # what a record holds, by the classes that read it
CLASS = ("pythonClassName", "python_class_name")  # and `type`, as older versions wrote it
OWN_CLASS = re.compile(r"tensorflow_datasets(\.\w+)+", re.ASCII)
BLOCK = 512  # records read at once where a whole split is read


@dataclasses.dataclass(frozen=True)
class SetName:
    """tfds:NAME[/CONFIG][:VERSION], taken apart; "" where a part is not given."""

    name: str
    config: str
    version: str

    def __str__(self) -> str:
        config = f"/{self.config}" if self.config else ""
        version = f":{self.version}" if self.version else ""
        return f"{PREFIX}{self.name}{config}{version}"


def parse(source: str) -> SetName:
    """The name in a source; raises InputError before anything looks at the disk."""
    match = NAME.fullmatch(source.removeprefix(PREFIX))
    if match is None or not source.startswith(PREFIX):
        raise InputError(f"{source!r} is no data set of TFDS: write tfds:NAME[/CONFIG][:VERSION]")
    name, config, version = (part or "" for part in match.groups())
    if VERSION.fullmatch(config) and not version:  # TFDS takes NAME/VERSION, too
        config, version = "", config
    if not config and name in embedded.FACTS:
        config = embedded.FACTS[name].config
    return SetName(name, config, version)


def folder(data_dir: str) -> epath.Path:
    """The given directory of data sets, or where TFDS has them."""
    usual = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return epath.Path(data_dir or usual).expanduser()


def prepared(data_dir: str) -> dict[str, epath.Path]:
    """NAME[/CONFIG]:VERSION -> folder of every complete data set, sorted."""
    root = folder(data_dir)
    found = {}
    for name in _folders(root):
        for config in ["", *_folders(root / name)]:
            for version in _versions(root / name / config):
                found[str(SetName(name, config, version))] = root / name / config / version
    return dict(sorted(found.items()))


def find(source: str, data_dir: str) -> epath.Path:
    """The folder of a prepared data set, of its newest version if none is named."""
    wanted, root = parse(source), folder(data_dir)
    config = wanted.config or _only_config(source, root / wanted.name)
    versions = _versions(root / wanted.name / config)
    if wanted.version:
        versions = [version for version in versions if version == wanted.version]
    if not versions:
        known = {*embedded.FACTS, *_folders(root), *names_of_tfds()}
        near = [] if wanted.name in known else difflib.get_close_matches(wanted.name, known, n=1)
        hint = f"nearest: {PREFIX}{near[0]}; or " if near else ""
        command = prepare_command(source, data_dir)
        raise InputError(f"{source} is not prepared in {root}; {hint}`{command}` does it")
    return root / wanted.name / config / versions[-1]


def names_of_tfds() -> set[str]:
    """Most data sets of TFDS, by the files of its package, which is not imported."""
    spec = importlib.util.find_spec("tensorflow_datasets")
    assert spec is not None  # lmjax needs it
    assert spec.submodule_search_locations is not None  # it is a package
    package = epath.Path(spec.submodule_search_locations[0])
    checked = {path.stem for path in (package / "url_checksums").glob("*.txt")}
    return checked | set(_folders(package / "datasets"))


def prepare_command(source: str, data_dir: str) -> str:
    """The command that writes a data set."""
    where = f" --data-dir {data_dir}" if data_dir else ""
    return f"lmjax data prepare {source}{where}"


def _only_config(source: str, path: epath.Path) -> str:
    """The configuration of a set that has but one; "" where it has none."""
    configs = [] if _versions(path) else [name for name in _folders(path) if _versions(path / name)]
    if len(configs) > 1:
        allowed = f"several configurations are prepared, name one: {source}/CONFIG, CONFIG one of "
        raise InputError(f"{source}: {allowed}{', '.join(configs)}")
    return configs[0] if configs else ""


def _folders(path: epath.Path) -> list[str]:
    if not path.is_dir():
        return []
    return sorted(child.name for child in path.iterdir() if NAME.fullmatch(f"a/{child.name}"))


def _versions(path: epath.Path) -> list[str]:
    """Versions that lie complete in a folder, the newest last."""
    versions = [name for name in _folders(path) if VERSION.fullmatch(name)]
    complete = [name for name in versions if (path / name / INFO).exists()]
    return sorted(complete, key=lambda name: [int(part) for part in name.split(".")])


def open_set(source: str, data_dir: str = "") -> Any:
    """TFDS's read-only builder of a prepared set: `.info` and `.as_data_source(split)`."""
    write_embedded(source, data_dir)
    path = find(source, data_dir)
    check_features(path)
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(path)
        info = builder.info
        formats = [x for x in (info.file_format, *info.alternative_file_formats) if x]
    except Exception as error:  # TFDS raises whatever its parsers do
        raise InputError(f"{path}: not a data set of TFDS ({_in_one_line(error)})") from None
    if RECORDS not in [file_format.value for file_format in formats]:
        found = formats[0].value if formats else "an unknown format"
        raise InputError(
            f"{source} is prepared as {found}, which cannot be read without TensorFlow; "
            f"`{prepare_command(source, data_dir)}` writes it as {RECORDS}, too"
        )
    if formats[0].value != RECORDS:  # the other format is read, where there are two
        builder.info.set_file_format(RECORDS, override=True, override_if_initialized=True)
    return builder


def check_features(path: epath.Path) -> None:
    """Refuse a set whose features are of classes that are not TFDS's own.

    TFDS imports the module of each class that the file names, whatever it is; raises InputError.
    """
    file = path / FEATURES
    if not file.exists():
        return  # TFDS says what is missing
    for name in _class_names(read_object(file)):
        if not OWN_CLASS.fullmatch(name):
            raise InputError(f"{file}: the class {name!r} is none of TFDS, and is not imported")


def _class_names(held: Any) -> Iterator[str]:
    """The names of classes in a part of the file; some parts are texts of JSON."""
    if isinstance(held, list):
        for inner in held:
            yield from _class_names(inner)
    if not isinstance(held, dict):
        return
    for key, inner in held.items():
        if key in CLASS or (key == "type" and "content" in held):
            yield str(inner)
        elif key == "json" and isinstance(inner, str):
            with contextlib.suppress(ValueError, RecursionError):  # TFDS cannot read it either
                yield from _class_names(json.loads(inner))
        else:
            yield from _class_names(inner)


def is_embedded(name: SetName) -> bool:
    """Whether this interpreter can write the set by itself."""
    if name.name not in embedded.FACTS or name.version not in ("", embedded.VERSION):
        return False
    return name.config == embedded.FACTS[name.name].config


def write_embedded(source: str, data_dir: str = "") -> None:
    """Write an embedded set where it is not there yet; of any other source, nothing.

    TFDS writes beside the set's folder and renames, so that of two processes one is the first.
    """
    wanted = parse(source)
    root = folder(data_dir)
    if not is_embedded(wanted) or _versions(root / wanted.name / wanted.config):
        return
    import tensorflow_datasets as tfds

    from lmjax.data.builders import BUILDERS

    tfds.disable_progress_bar()
    try:
        builder = BUILDERS[wanted.name](data_dir=root)
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(file_format=RECORDS)
    except OSError as error:
        if not _versions(root / wanted.name / wanted.config):
            raise InputError(f"{root}: cannot be written ({error.strerror})") from None


class Records:
    """Some features of one split's records, by index. Images stay encoded, PNG or JPEG."""

    def __init__(self, builder: Any, split: str, features: Sequence[str]):
        import tensorflow_datasets as tfds

        self.name, splits = builder.info.full_name, builder.info.splits
        if split not in splits:
            raise FieldError("split", split, f"the splits of {self.name} are {', '.join(splits)}")
        if not splits[split].num_examples:
            raise InputError(f"{self.name}: the split {split} is empty")
        self.files = list(splits[split].filepaths)
        for path in self.files:
            if not path.exists():
                raise InputError(f"{path}: this part of {self.name} is missing")
        wanted = {name: builder.info.features[name] for name in features}
        self.features: Any = tfds.features.FeaturesDict(wanted)
        images = [name for name in wanted if isinstance(wanted[name], tfds.features.Image)]
        self.decoders = {name: tfds.decode.SkipDecoding() for name in images}
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        try:
            self.source = builder.as_data_source(split, deserialize_method=raw)
        except Exception as error:  # of array_record
            raise self._unreadable(error) from None

    def __len__(self) -> int:
        return len(self.source)

    def read(self, chosen: list[int]) -> list[dict[str, Any]]:
        """The chosen records."""
        parse = functools.partial(self.features.deserialize_example_np, decoders=self.decoders)
        try:
            found = [parse(record) for record in self.source.__getitems__(chosen)]
        except Exception as error:  # of array_record, of the parser
            raise self._unreadable(error) from None
        for number, record in zip(chosen, found, strict=True):
            if any(value is None for value in record.values()):
                raise self._unreadable(ValueError(f"record {number} is empty"))
        return found

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(f"{self.name}: its records cannot be read ({_in_one_line(error)})")


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def text_documents(
    source: str, data_dir: str = "", split: str = "train", feature: str = ""
) -> Iterator[bytes]:
    """The documents of a split in order, as UTF-8, read in blocks.

    Args:
      source: tfds:NAME[/CONFIG][:VERSION] of a set that has text.
      data_dir: where TFDS has its sets; "" = TFDS_DATA_DIR or its usual place.
      split: of the set.
      feature: which of its texts; "" = the one called `text`, or the only one.
    """
    builder = open_set(source, data_dir)
    feature = _text_feature(source, builder, feature)
    data = Records(builder, split, [feature])
    for first in range(0, len(data), BLOCK):
        chosen = list(range(first, min(first + BLOCK, len(data))))
        for record in data.read(chosen):
            yield record[feature]


def _text_feature(source: str, builder: Any, feature: str) -> str:
    import tensorflow_datasets as tfds

    features = dict(builder.info.features)
    texts = [name for name in features if isinstance(features[name], tfds.features.Text)]
    if feature and feature not in texts:
        raise unknown(f"text feature of {source}", feature, texts)
    if not texts:
        raise InputError(f"{source} has no text; its features are {', '.join(features)}")
    if not feature and "text" not in texts and len(texts) > 1:
        raise InputError(f"{source} has several texts, name one: {', '.join(texts)}")
    return feature or ("text" if "text" in texts else texts[0])
