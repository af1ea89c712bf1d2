"""The operations in a trace of jax.profiler, and the table of those that took longest.

An operation's time is its own: what runs inside it (the body of a loop) is counted where it
belongs.
"""

import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from etils import epath

ROWS = 20  # of the table
GROUPS = 8  # in a line


class Operation(NamedTuple):
    """One operation on one device, over a whole trace."""

    name: str
    seconds: float  # its own, without what runs inside it
    calls: int


def read_trace(folder: epath.Path) -> dict[str, Any] | None:
    """The newest trace that jax.profiler has written below a folder, or None."""
    found = sorted((folder / "plugins" / "profile").glob("*/*.trace.json.gz"))
    return json.loads(gzip.decompress(found[-1].read_bytes())) if found else None


def table(trace: dict[str, Any] | None, seconds: float, steps: int) -> list[str]:
    """The operations that took longest in a window of so many seconds and steps, one line each."""
    lines = {} if trace is None else device_lines(trace)
    if not lines:
        return ["the trace shows no operations of a device"]
    found = operations(lines.values())
    total = sum(operation.seconds for operation in found)
    told = [
        f"devices computed {busy(lines) / seconds:.1%} of the time",
        f"programs: {_shares(found, total, lambda name: name.rpartition('/')[0])}",
        f"kinds: {_shares(found, total, _kind)}",
        f"{'share':>6}  {'ms/step':>9}  {'calls/step':>10}  operation",
    ]
    shown, rest = found[:ROWS], found[ROWS:]
    if rest:
        own, calls = sum(x.seconds for x in rest), sum(x.calls for x in rest)
        shown.append(Operation(f"{len(rest)} others", own, calls))
    for name, own, calls in shown:
        told.append(f"{own / total:6.1%}  {1e3 * own / steps:9.3f}  {calls / steps:10.1f}  {name}")
    return told


def _kind(name: str) -> str:
    """A name without the number that tells it from its like: dot.12 -> dot."""
    return name.rpartition("/")[2].rstrip(".0123456789")


def _shares(found: list[Operation], total: float, group: Callable[[str], str]) -> str:
    """The largest groups of operations, in percent."""
    seconds: dict[str, float] = defaultdict(float)
    for operation in found:
        seconds[group(operation.name)] += operation.seconds
    largest = sorted(seconds.items(), key=lambda item: -item[1])[:GROUPS]
    return "  ".join(f"{name or 'unnamed'} {own / total:.1%}" for name, own in largest)


Event = dict[str, Any]
Lines = dict[tuple[int, int], list[Event]]  # (device, line of it) -> operations, by start


def device_lines(trace: dict[str, Any]) -> Lines:
    """The operations of a trace, by what ran them.

    A TPU has one line of them; a GPU has streams of kernels; on CPU they lie on the host's threads
    among other events, and they alone name the HLO that they are.
    """
    events = [event for event in trace["traceEvents"] if "ph" in event]
    devices = {e["pid"] for e in events if _named(e, "process_name", "/device:")}
    streams = {(e["pid"], e["tid"]) for e in events if _named(e, "thread_name", "Stream")}
    tpu_lines = {(e["pid"], e["tid"]) for e in events if _named(e, "thread_name", "XLA Ops")}
    with_lines = {pid for pid, _ in tpu_lines}
    found: Lines = defaultdict(list)
    for event in events:
        if event["ph"] != "X":
            continue
        pid, line = event["pid"], (event["pid"], event["tid"])
        if pid in with_lines:
            wanted = line in tpu_lines
        elif pid in devices:
            wanted = line in streams
        else:
            wanted = "hlo_op" in _args(event)
        if wanted:
            found[line].append(event)
    for line in found.values():
        line.sort(key=lambda event: (event["ts"], -event["dur"]))
    return found


def _named(event: Event, kind: str, start: str) -> bool:
    """Whether the event names a process or thread so."""
    return event["name"] == kind and event["args"]["name"].startswith(start)


def _args(event: Event) -> dict[str, Any]:
    return event.get("args", {})


def operations(lines: Iterable[list[Event]]) -> list[Operation]:
    """The operations of all lines by name, the longest first."""
    seconds: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for line in lines:
        for event, own in zip(line, own_times(line), strict=True):
            args = _args(event)
            name = f"{args['hlo_module']}/{args['hlo_op']}" if "hlo_op" in args else event["name"]
            seconds[name] += own / 1e6
            calls[name] += 1
    found = [Operation(name, seconds[name], calls[name]) for name in seconds]
    return sorted(found, key=lambda operation: -operation.seconds)


def own_times(line: list[Event]) -> list[float]:
    """Microseconds of each event of one line without those of the events inside it."""
    own = [float(event["dur"]) for event in line]
    around: list[tuple[float, int]] = []  # (end, number) of the events that are open
    for number, event in enumerate(line):
        while around and around[-1][0] <= event["ts"]:
            around.pop()
        end = event["ts"] + event["dur"]
        if around:
            own[around[-1][1]] -= min(end, around[-1][0]) - event["ts"]
        around.append((end, number))
    return own


def busy(lines: Lines) -> float:
    """Seconds in which a device computed anything, as a mean over the devices."""
    total = 0.0
    devices = {pid for pid, _ in lines}
    for device in devices:
        ends = -1.0
        events = (e for (pid, _), line in lines.items() if pid == device for e in line)
        for event in sorted(events, key=lambda event: event["ts"]):
            end = event["ts"] + event["dur"]
            total += max(0.0, end - max(ends, event["ts"]))
            ends = max(ends, end)
    return total / 1e6 / len(devices)
