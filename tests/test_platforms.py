"""What is set for each kind of device."""

from lmjax import cli, platforms


def test_malloc_takes_what_it_is_told(monkeypatch):
    names = ["M_MMAP_THRESHOLD", "M_TRIM_THRESHOLD", "M_TOP_PAD"]
    assert platforms.keep_freed_memory() in ([], names)  # []: not glibc's
    if platforms.keep_freed_memory():
        too_much = platforms.SETTINGS[0]._replace(value=2**27)  # glibc's limit is 2**25
        monkeypatch.setattr(platforms, "SETTINGS", (too_much, *platforms.SETTINGS[1:]))
        assert platforms.keep_freed_memory() == names[1:]
        monkeypatch.undo()
        platforms.keep_freed_memory()


def test_options_are_for_their_platform_and_number_of_devices():
    assert platforms.compiler_options("cpu", 8) == {}
    assert platforms.compiler_options("gpu", 1) == {}
    assert "xla_gpu_enable_latency_hiding_scheduler" in platforms.compiler_options("gpu", 2)
    assert platforms.compiler_options("tpu", 1) == {"xla_tpu_scoped_vmem_limit_kib": 98304}


def test_doctor_prints_each_with_its_reason(capsys):
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    for setting in platforms.SETTINGS:
        assert setting.name in told
        assert setting.reason in told
