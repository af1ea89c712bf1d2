"""The operations of traces as CPUs, GPUs and TPUs have them, made by hand."""

import pytest

from lmjax import operations


def named(pid: int, process: str, **threads: str) -> list[dict]:
    """The events that name a process and its threads, by number: t7="..." names thread 7."""
    found = [{"ph": "M", "pid": pid, "name": "process_name", "args": {"name": process}}]
    for thread, name in threads.items():
        tid = int(thread[1:])
        found.append(
            {"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": name}}
        )
    return found


def ran(pid: int, tid: int, name: str, start: float, length: float, **args: str) -> dict:
    """An operation, in microseconds."""
    event = {"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": start, "dur": length}
    return {**event, "args": args} if args else event


def on(*events: dict | list[dict]) -> dict:
    flat = [e for event in events for e in (event if isinstance(event, list) else [event])]
    return {"traceEvents": [*flat, {}]}  # the profiler ends its list with an empty event


def found(trace: dict) -> dict[str, tuple[float, int]]:
    """Name -> (own microseconds, calls)."""
    rows = operations.operations(operations.device_lines(trace).values())
    return {row.name: (round(row.seconds * 1e6, 3), row.calls) for row in rows}


def test_an_operation_s_time_is_its_own():
    """A loop of 100 us around two products and, at its end, an addition that begins another."""
    hlo = {"hlo_module": "jit_step"}
    trace = on(
        named(1, "/host:CPU", t5="tf_XLAEigen"),
        ran(1, 5, "while", 0, 100, hlo_op="while", **hlo),
        ran(1, 5, "dot", 10, 30, hlo_op="dot", **hlo),
        ran(1, 5, "dot", 50, 30, hlo_op="dot", **hlo),
        ran(1, 5, "inner", 55, 5, hlo_op="inner", **hlo),
        ran(1, 5, "add", 100, 20, hlo_op="add", **hlo),
        ran(1, 5, "end: dot", 80, 1),  # host events that are no operations
        ran(1, 6, "python", 0, 500),
    )
    assert found(trace) == {
        "jit_step/while": (40, 1),
        "jit_step/dot": (55, 2),
        "jit_step/inner": (5, 1),
        "jit_step/add": (20, 1),
    }
    assert operations.busy(operations.device_lines(trace)) == pytest.approx(120e-6)


def test_a_gpu_s_streams_are_read_and_overlap_is_busy_once():
    trace = on(
        named(1, "/device:GPU:0", t7="Stream #7(Compute)", t8="Stream #8(MemcpyD2D)", t9="Steps"),
        named(2, "/host:CPU", t1="python"),
        ran(1, 7, "gemm", 0, 60, hlo_op="gemm.1", hlo_module="jit_step"),
        ran(1, 8, "MemcpyD2D", 40, 40),
        ran(1, 9, "step 3", 0, 1000),
        ran(2, 1, "python", 0, 900),
    )
    assert found(trace) == {"jit_step/gemm.1": (60, 1), "MemcpyD2D": (40, 1)}
    assert operations.busy(operations.device_lines(trace)) == pytest.approx(80e-6)


def test_a_tpu_s_line_of_operations_is_read_alone():
    trace = on(
        named(1, "/device:TPU:0", t1="XLA Modules", t2="XLA Ops", t3="Steps"),
        named(2, "/device:TPU:1", t1="XLA Modules", t2="XLA Ops", t3="Steps"),
        ran(1, 1, "jit_step(123)", 0, 100),
        ran(1, 2, "fusion.1", 0, 70),
        ran(2, 2, "fusion.1", 0, 50),
    )
    assert found(trace) == {"fusion.1": (120, 2)}
    assert operations.busy(operations.device_lines(trace)) == pytest.approx(
        60e-6
    )  # mean of the two


def test_the_table_adds_up():
    events = [ran(1, 2, f"fusion.{n}", 100 * n, n + 1) for n in range(25)]
    trace = on(named(1, "/device:TPU:0", t2="XLA Ops"), *events)
    lines = operations.table(trace, seconds=650e-6, steps=5)
    assert lines[0] == "devices computed 50.0% of the time"
    assert "fusion 100.0%" in lines[2]
    rows = [line.split() for line in lines[4:]]
    assert len(rows) == operations.ROWS + 1
    assert rows[0] == ["7.7%", "0.005", "0.2", "fusion.24"]  # 25 of 325 us
    assert rows[-1] == ["4.6%", "0.003", "1.0", "5", "others"]  # 1 + 2 + 3 + 4 + 5
    assert sum(float(row[0].rstrip("%")) for row in rows) == pytest.approx(100, abs=1)


def test_a_trace_without_operations_is_told():
    for trace in (None, on(), on(named(1, "/host:CPU", t1="python"), ran(1, 1, "python", 0, 9))):
        assert operations.table(trace, 1.0, 1) == ["the trace shows no operations of a device"]
