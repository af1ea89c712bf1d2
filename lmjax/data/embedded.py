"""Real data that is on every machine: inside the interpreter and inside scikit-learn.

Nothing here uses the network. Text differs between versions of Python, and so does its digest,
which is part of what decides a run. lmjax/data/builders.py makes TFDS data sets of the same.
"""

import platform
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float32, Int32

INTERPRETER = f"{platform.python_implementation().lower()}-{platform.python_version()}"
VERSION = "1.0.0"  # of all of them as data sets of TFDS
UCI = "https://archive.ics.uci.edu/dataset"
PYTHON = "@misc{python, author={Python Software Foundation}, title={Python}}"


class Facts(NamedTuple):
    """What is known of a set before it is read."""

    what: str
    size: str
    licence: str
    homepage: str
    citation: str
    config: str  # that TFDS keeps it under; "" = none
    held_out: int  # examples in its split `test`; 0 = it has none


FACTS = {
    "digits": Facts(
        "handwritten digits, pixels in [0, 1], as scikit-learn holds them",
        "1,797 x 8 x 8 x 1",
        "CC BY 4.0",
        f"{UCI}/80/optical+recognition+of+handwritten+digits",
        "@misc{digits, author={Alpaydin, E. and Kaynak, C.}, year={1998}, doi={10.24432/C50P49}, "
        "title={Optical Recognition of Handwritten Digits}}",
        "",
        360,
    ),
    "breast_cancer": Facts(
        "breast tumours by measures of their cells' nuclei, as scikit-learn holds them",
        "569 x 30",
        "CC BY 4.0",
        f"{UCI}/17/breast+cancer+wisconsin+diagnostic",
        "@misc{breast_cancer, author={Wolberg, W. and Mangasarian, O. and Street, N. and Street, "
        "W.}, year={1993}, doi={10.24432/C5DW2B}, title={Breast Cancer Wisconsin (Diagnostic)}}",
        "",
        114,
    ),
    "python_docs": Facts(
        "the language reference that help() shows, a document for each topic",
        "0.5 MB of text",
        "PSF-2.0",
        "https://docs.python.org/3/reference",
        PYTHON,
        INTERPRETER,
        0,
    ),
    "python_stdlib": Facts(
        "the top-level modules of the interpreter's library, a document for each file",
        "4.7 MB of text",
        "PSF-2.0",
        "https://docs.python.org/3/library",
        PYTHON,
        INTERPRETER,
        0,
    ),
}


def python_docs() -> dict[str, bytes]:
    """Topic -> text of the reference that `help()` shows (PSF licence), in order.

    As UTF-8; 466,117 bytes in 79 topics on 3.11.
    """
    from pydoc_data import topics

    return {key: topics.topics[key].encode() for key in sorted(topics.topics)}


def python_stdlib() -> dict[str, bytes]:
    """File name -> text of the interpreter's own top-level modules (PSF licence), in order.

    As UTF-8; 4.8 MB on 3.11.
    """
    import sysconfig

    folder = epath.Path(sysconfig.get_path("stdlib"))
    files = {path.name: path.read_bytes() for path in folder.glob("*.py")}
    return {name: files[name] for name in sorted(files) if files[name]}


def digits() -> tuple[Float32[np.ndarray, "n 8 8 1"], Int32[np.ndarray, "n"]]:
    """1,797 handwritten digits, 8 x 8 x 1 pixels in [0, 1] (UCI, CC BY 4.0), with their classes."""
    from sklearn.datasets import load_digits

    rows, classes = load_digits(return_X_y=True)
    images = np.asarray(rows, np.float32).reshape(-1, 8, 8, 1) / 16.0
    return images, np.asarray(classes, np.int32)


def breast_cancer() -> tuple[Float32[np.ndarray, "n 30"], Int32[np.ndarray, "n"]]:
    """569 tumours of 30 measures each (UCI, CC BY 4.0): malignant is 0, benign is 1."""
    from sklearn.datasets import load_breast_cancer

    rows, classes = load_breast_cancer(return_X_y=True)
    return np.asarray(rows, np.float32), np.asarray(classes, np.int32)
