"""A command's answer as JSON, in the file that --json names."""

import json
import os
from typing import Any

from lmjax.errors import InputError


def check_writable(path: str | None) -> None:
    """Refuse a path, if one was given, before what it is to hold is computed; writes nothing."""
    if path is None:
        return
    folder = os.path.dirname(path) or "."
    if not path or os.path.isdir(path):
        told = "is a folder" if path else "is empty"
    elif os.path.islink(path) and not os.path.exists(path):
        told = "a link that leads nowhere"
    elif not os.path.isdir(folder):
        told = f"no folder {folder}"
    elif not os.access(path if os.path.exists(path) else folder, os.W_OK):
        told = "no permission"
    else:
        return
    raise InputError(f"--json {path}: not writable ({told})")


def write_json(path: str | None, value: Any) -> None:
    """To the path, if one was given."""
    if path is None:
        return
    try:
        with open(path, "w") as file:
            file.write(json.dumps(value, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"--json {path}: not writable ({error.strerror})") from None
