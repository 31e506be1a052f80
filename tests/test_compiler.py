"""Compiler options belong to our own programs, and one that this release of XLA lacks is left out."""

import logging
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from vgg_jax import compiler
from vgg_jax.train.throughput import StartUp


@pytest.fixture(autouse=True)
def nothing_known():
    compiler._is_known.cache_clear()
    yield
    compiler._is_known.cache_clear()


@pytest.fixture
def options(monkeypatch):
    """The compiler options of every function that is jitted, while it is."""
    given, original = [], jax.jit

    def jit(fun, *, compiler_options=None, **arguments):
        given.append(compiler_options)
        return original(fun, compiler_options=compiler_options, **arguments)

    monkeypatch.setattr(jax, "jit", jit)
    return given


@pytest.mark.parametrize("flags", [None, "--xla_force_host_platform_device_count=2"])
def test_an_import_changes_no_environment_and_starts_no_backend(flags):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {} if flags is None else {"XLA_FLAGS": flags}
    check = (
        "import os; before = dict(os.environ); import jax, vgg_jax, vgg_jax.main; "
        "assert os.environ.get('XLA_FLAGS') == before.get('XLA_FLAGS'), os.environ; "
        "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", check], env=environment, check=True)


def test_an_option_that_is_lacking_is_dropped_once(options, monkeypatch, caplog):
    monkeypatch.setattr(compiler, "FAST", compiler.FAST | {"xla_cpu_no_such_option": True})
    with caplog.at_level(logging.INFO, "vgg_jax.compiler"):
        for quick in (False, True, False):
            program = compiler.jit(lambda x: 2 * x, quick=quick)
            assert "xla_cpu_no_such_option" not in (options[-1] or {})
            assert float(program(jnp.float32(3))) == 6
    tried = [given for given in options if given == {"xla_cpu_no_such_option": True}]
    assert len(tried) == 1 and caplog.text.count("compiled without xla_cpu_no_such_option=True") == 1


def test_a_quick_compilation_has_the_other_options_too(options):
    compiler.jit(jnp.sin)
    fast = options[-1] or {}
    compiler.jit(jnp.sin, quick=True)
    assert fast.items() <= (options[-1] or {}).items() and set(options[-1] or {}) <= {*compiler.FAST, *compiler.QUICK}


def test_other_backends_have_no_options(options, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiler.jit(jnp.sin, quick=True)(0.0) == 0 and options == [None]


def test_arguments_of_jit_are_passed_on():
    program = compiler.jit(lambda x, times: x * times, static_argnames="times")
    assert float(program(jnp.float32(2), times=3)) == 6
    assert program.lower(jnp.float32(2), times=3).compile()(jnp.float32(2)) == 6


CACHE_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture
def users_cache(tmp_path, monkeypatch):
    """The folder of the user's cache, in which nothing is yet; the tests' own is put back afterwards."""
    before = {name: getattr(jax.config, name) for name in CACHE_OPTIONS}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield tmp_path / "cache" / "vgg_jax"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_programs_are_kept_in_the_users_cache_folder(users_cache, monkeypatch):
    assert "kept" not in StartUp().summary()
    compiler.keep_programs()
    assert StartUp().summary().endswith(f"; compiled programs are kept in {users_cache}")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    sizes = []
    for number in range(4):
        jax.jit(lambda x, number=number: jnp.sin(x) * number).lower(jnp.ones(7)).compile()
        sizes.append(sum(path.stat().st_size for path in users_cache.glob("*-cache")))
        if number == 1:  # room for these two: from here on, one goes for each that comes
            jax.config.update("jax_compilation_cache_max_size", sizes[-1] + 10)
            compilation_cache.reset_cache()
    assert 0 < sizes[0] < sizes[1] and max(sizes[2:]) <= sizes[1] + 10
    assert jax.config.jax_compilation_cache_max_size != compiler.CACHE_SIZE > 0


def test_what_a_kill_left_half_written_goes(users_cache):
    users_cache.mkdir(parents=True)
    for name in ("half-1-cache", "whole-2-cache", "whole-2-atime"):
        (users_cache / name).write_bytes(b"x")
    compiler.keep_programs()
    assert {path.name for path in users_cache.glob("*-*")} == {"whole-2-cache", "whole-2-atime"}


def test_a_cache_that_the_user_chose_stays(users_cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "chosen"))
    compiler.keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "chosen") and not users_cache.exists()


def test_without_a_place_for_them_programs_are_not_kept(users_cache, caplog):
    users_cache.parent.write_text("a file")
    with caplog.at_level(logging.WARNING, "vgg_jax.compiler"):
        compiler.keep_programs()
    assert jax.config.jax_compilation_cache_dir is None
    assert "compiled programs are not kept" in caplog.text and str(users_cache) in caplog.text


def test_several_processes_with_gpus_keep_no_programs(users_cache, monkeypatch):
    """Each tries a share of the convolutions out for all: one that has its program would leave the others waiting."""
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    compiler.keep_programs()
    assert jax.config.jax_compilation_cache_dir is None and not users_cache.exists()
