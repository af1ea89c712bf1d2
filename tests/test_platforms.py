"""What is set for each kind of device."""

import ctypes
import types

from lmjax import cli, platforms


def test_malloc_is_told_where_it_is_glibc_s(monkeypatch):
    told = []
    libc = types.SimpleNamespace(mallopt=lambda option, value: told.append((option, value)) or 1)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    names = ["M_MMAP_THRESHOLD", "M_TRIM_THRESHOLD", "M_TOP_PAD"]
    assert platforms.keep_freed_memory() == names
    assert told == [(-3, 2**25), (-1, 2**31 - 1), (-2, 2**26)]  # the numbers of malloc.h
    del libc.mallopt
    assert platforms.keep_freed_memory() == []


def test_options_are_for_their_platform_and_number_of_devices():
    assert platforms.compiler_options("cpu", 8) == {}
    assert platforms.compiler_options("cpu", 1, shards=8) == {"xla_disable_hlo_passes": "cse"}
    assert platforms.compiler_options("gpu", 1) == {}
    assert "xla_gpu_enable_latency_hiding_scheduler" in platforms.compiler_options("gpu", 2)
    assert platforms.compiler_options("tpu", 1) == {"xla_tpu_scoped_vmem_limit_kib": 98304}


def test_doctor_prints_each_with_its_reason(capsys):
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    for setting in platforms.SETTINGS:
        assert setting.name in told
        assert setting.reason in told
