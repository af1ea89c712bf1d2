"""Real data that is on every machine: inside the interpreter and inside scikit-learn.

Nothing here uses the network. Text differs between versions of Python, and so does its digest,
which is part of what decides a run.
"""

import numpy as np
from jaxtyping import Float32, Int32


def python_docs() -> bytes:
    """The language reference that `help()` shows, as UTF-8 (PSF licence); 466,117 bytes on 3.11."""
    from pydoc_data import topics

    return "".join(topics.topics[key] for key in sorted(topics.topics)).encode()


def digits() -> tuple[Float32[np.ndarray, "n 8 8 1"], Int32[np.ndarray, "n"]]:
    """1,797 handwritten digits, 8 x 8 pixels in [0, 1] (UCI, CC BY 4.0), with their classes."""
    from sklearn.datasets import load_digits

    rows, classes = load_digits(return_X_y=True)
    images = np.asarray(rows, np.float32).reshape(-1, 8, 8, 1) / 16.0
    return images, np.asarray(classes, np.int32)
