"""When the compiled engine takes over, and what is said where it cannot."""

import ase.build
import numpy as np
import pytest
import torch
from support.models import build_model
from support.structures import build_batch, build_structures

from pet_calc import PETCalculator
from pet_calc.engine import sources, switch
from pet_calc.engine.build import build_engine, find_library, is_built
from pet_calc.engine.engine import Engine
from pet_calc.errors import ConfigError
from pet_calc.export import export_model
from pet_calc.system import compiler


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def engine():
    return build_engine()


def decide(**options):
    model = build_model(dtype=torch.float32)
    options = {"compile": "auto", "precision": "exact", **options}
    return switch.ModelSwitch(model, "energy", **options)


def test_the_engine_is_taken_where_it_is_there():
    assert is_built()
    assert isinstance(decide().get(), Engine)
    assert isinstance(decide(compile=True).get(), Engine)
    assert decide(compile=False).get() is None


def test_a_short_run_compiles_nothing(empty_cache):
    waiting = decide()
    for _ in range(switch.LONG_RUN - 1):
        assert waiting.get() is None
    assert list(empty_cache.iterdir()) == []


def test_a_long_run_compiles_meanwhile_and_switches_over(
    empty_cache, engine, monkeypatch
):
    started = []

    class Build:
        """Stands for the compiler's process: done when the library is there."""

        def poll(self):
            return 0 if is_built() else None

    def start():
        started.append(True)
        return Build()

    monkeypatch.setattr(switch, "start_build", start)
    waiting = decide()
    for _ in range(2 * switch.LONG_RUN):
        assert waiting.get() is None
    assert started == [True]
    find_library().parent.mkdir(parents=True)
    find_library().write_bytes(engine.read_bytes())
    assert isinstance(waiting.get(), Engine)


def test_a_compiler_that_fails_leaves_the_run_as_it_is(
    empty_cache, monkeypatch, caplog
):
    class Build:
        def poll(self):
            return 1

    monkeypatch.setattr(switch, "start_build", Build)
    waiting = decide()
    for _ in range(2 * switch.LONG_RUN):
        assert waiting.get() is None
    assert "goes on without it" in caplog.text


def test_no_compiler_is_an_error_only_where_the_engine_was_asked_for(
    empty_cache, monkeypatch
):
    monkeypatch.setenv("CXX", "no-such-compiler")
    waiting = decide()
    for _ in range(2 * switch.LONG_RUN):
        assert waiting.get() is None
    with pytest.raises(ConfigError, match="no-such-compiler"):
        build_engine()


def test_a_failing_compiler_is_quoted(empty_cache, monkeypatch):
    monkeypatch.setattr(sources, "COMPILE_FLAGS", ["--no-such-flag"])
    with pytest.raises(ConfigError, match="no-such-flag"):
        build_engine()
    assert not is_built()


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="XDG_CACHE_HOME"):
        build_engine()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile": "yes"}, "compile"),
        ({"precision": "low"}, "precision"),
        ({"precision": "mixed", "compile": False}, "compile=False"),
    ],
)
def test_wrong_wishes_are_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        decide(**options)


def test_wishes_that_the_model_cannot_fulfil_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="PostLN"):
        PETCalculator(build_model(transformer_type="PostLN"), compile=True)
    with pytest.raises(ConfigError, match="float64"):
        PETCalculator(build_model(), precision="mixed")
    path = export_model(build_model(), tmp_path / "model.pt", check=False)
    with pytest.raises(ConfigError, match="exported file"):
        PETCalculator(path, precision="mixed")


def test_mixed_precision_is_refused_where_it_would_be_slower(monkeypatch):
    model = build_model(dtype=torch.float32)
    monkeypatch.setattr(compiler, "read_features", lambda: "sse4_2 avx2 avx512f")
    with pytest.raises(ConfigError, match="bfloat16"):
        PETCalculator(model, precision="mixed")
    monkeypatch.setattr(compiler, "read_features", lambda: "avx2 avx512_bf16")
    assert compiler.multiplies_bfloat16()


def test_the_calculator_gives_the_same_with_and_without():
    model = build_model(num_neighbors_adaptive=6.0)
    atoms = ase.build.bulk("Si", "diamond", 5.4, cubic=True)
    atoms.rattle(0.1, seed=1)
    results = []
    for choice in (False, True):
        atoms.calc = PETCalculator(model, compile=choice)
        results.append(
            (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress())
        )
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-11)


def test_the_model_in_memory_may_change_after_the_engine_was_made():
    model = build_model()
    batch = build_batch(build_structures(), model)
    engine = Engine.from_model(model, "energy")
    before = engine.predict(batch, with_composition=False).energy
    with torch.no_grad():
        model.gnn_layers[0].compress[0].weight.zero_()
    assert torch.equal(engine.predict(batch, with_composition=False).energy, before)
