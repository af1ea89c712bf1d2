"""Runs in the throw-away environment of lmjax/data/prepare.py, where there is TensorFlow.

`python download.py NAME DATA_DIR` downloads a data set of TFDS and writes it as array_record. What
lies there in another format is converted in its place, so that both can be read. It imports
nothing of lmjax. A failure is one line, the last of stderr; status 2 where TFDS knows no such set.
"""

import difflib
import json
import sys
from typing import Any, NoReturn

UNKNOWN = 2


def main(name: str, data_dir: str) -> None:
    """Prepare one data set."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        near = difflib.get_close_matches(name, tfds.list_builders(), n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        fail(f"TFDS has no data set {name}{hint}", UNKNOWN)
    except Exception as error:
        fail(error, UNKNOWN)
    try:
        if builder.data_path.exists():
            convert(builder)
        else:
            builder.download_and_prepare(file_format="array_record")
    except Exception as error:
        fail(error, 1)


def convert(builder: Any) -> None:
    """Add array_record to a data set that is there as tfrecord: the same records, file by file.

    Its record, dataset_info.json, names the new format once all files are there.
    """
    info = builder.info
    formats = [x.value for x in (info.file_format, *info.alternative_file_formats) if x]
    if "array_record" in formats:
        return
    if "tfrecord" not in formats:
        raise ValueError(
            f"{builder.data_path} is prepared as {', '.join(formats)}; remove it first"
        )
    import tensorflow as tf  # pyright: ignore[reportMissingModuleSource]
    from array_record.python.array_record_module import ArrayRecordWriter

    for split in info.splits.values():
        for path in split.filepaths:
            target = path.parent / path.name.replace(".tfrecord", ".array_record")
            writer = ArrayRecordWriter(str(target), "group_size:1")
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                writer.write(record)
            writer.close()
    record = builder.data_path / "dataset_info.json"
    told = json.loads(record.read_text())
    told["alternativeFileFormats"] = [*formats[1:], "array_record"]
    fresh = record.with_name("dataset_info.json.new")
    fresh.write_text(json.dumps(told, indent=2))
    fresh.replace(record)


def fail(reason: Exception | str, status: int) -> NoReturn:
    """End with the reason told in one line."""
    print(" ".join(str(reason).split())[:600], file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
