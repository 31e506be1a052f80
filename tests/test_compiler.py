"""Compiler options belong to our own programs, and one that this release of XLA lacks is left out."""

import logging
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from vgg_jax import compiler


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
