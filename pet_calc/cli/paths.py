"""Files that verbs read and write: the types of their parameters, and the rule.

What a verb writes is never a file that it reads, whatever the names are, and never a
file of another kind unless ``--overwrite`` is given. Outputs are tried before the work.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import cloup

from pet_calc.cli.file_kind import KINDS, find_kind
from pet_calc.system.paths import expand_path

# bytes: with less a disk is full
_LEAST_FREE = 4096
_OVERWRITE = "pet_calc.overwrite"


class DataFiles(click.ParamType):
    """Files to read, as the reader of frames takes them: globs, ``file@0:10``."""

    name = "file"
    is_read = True

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return the name with ``~`` and ``$VAR`` filled in."""
        return expand_path(value)


class InputFile(click.Path):
    """A file to read, which is there."""

    is_read = True

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the name with ``~`` and ``$VAR`` filled in."""
        return super().convert(expand_path(value), param, ctx)


class ModelFile(click.ParamType):
    """A model file, or the name of a bundled or a public model."""

    name = "model"
    is_read = True

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return the path of an existing file; a public model is downloaded."""
        from pet_calc.hub import find_model

        return str(find_model(value))


class OutputFile(click.ParamType):
    """A file to write, in a folder that is there and can be written to."""

    name = "file"

    def __init__(self, kind: str, *, beside: Sequence[str] = ()) -> None:
        """Declare an output.

        Args:
            kind: what is written, a key of ``KINDS``.
            beside: endings of further files that are written on the way.
        """
        assert kind in KINDS
        self.kind = kind
        self.beside = tuple(beside)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return the name with ``~`` and ``$VAR`` filled in."""
        path = expand_path(value)
        why = find_obstacle(Path(path))
        if why:
            self.fail(why, param, ctx)
        return path


def output_option(kind: str) -> Callable[[Any], Any]:
    """Return ``-o`` of a verb that writes one file, which must be named.

    Args:
        kind: as for ``OutputFile``.
    """
    return click.option(
        "-o", "--output", required=True, type=OutputFile(kind), help="File to write."
    )


class OutputFolder(click.ParamType):
    """A folder to write to, made if it is not there."""

    name = "folder"

    def __init__(self, files: Mapping[str, str | None] | None = None) -> None:
        """Declare an output.

        Args:
            files: names that are written in it, and their kinds, see ``Output``.
        """
        self.files = dict(files or {})

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return the name with ``~`` and ``$VAR`` filled in."""
        path = expand_path(value)
        why = find_folder_obstacle(Path(path))
        if why:
            self.fail(why, param, ctx)
        return path


class RunDirectory(click.Path):
    """The folder of a run, which is there."""

    is_read = True

    def __init__(self) -> None:
        super().__init__(exists=True, file_okay=False)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        """Return the name with ``~`` and ``$VAR`` filled in."""
        return super().convert(expand_path(value), param, ctx)


class PathCommand(cloup.Command):
    """A verb whose outputs are held against its inputs before it runs."""

    def invoke(self, ctx: click.Context) -> Any:
        """Check the paths among the parameters, and run."""
        given = [
            (param.type, value)
            for param in self.params
            if param.name is not None
            for value in _to_values(ctx.params.get(param.name))
        ]
        read = [value for kind, value in given if getattr(kind, "is_read", False)]
        outputs: list[Output] = []
        for kind, value in given:
            if isinstance(kind, OutputFile):
                outputs.append(Output(value, kind.kind, kind.beside))
            if isinstance(kind, OutputFolder):
                outputs += [
                    Output(str(Path(value) / name), found)
                    for name, found in kind.files.items()
                ]
        check_outputs(outputs, read, may_overwrite=is_overwrite_given())
        return super().invoke(ctx)


class Output(NamedTuple):
    """A file that is going to be written."""

    path: str
    kind: str | None = None
    """A key of ``KINDS``; None may replace any."""
    beside: tuple[str, ...] = ()
    """Endings of further files."""


def check_outputs(
    outputs: Sequence[Output], read: Iterable[str], *, may_overwrite: bool
) -> None:
    """Raise for an output that would take the place of an input, or of something else.

    Args:
        outputs: what is to be written.
        read: what is read: names, globs, names with ``@0:10``.
        may_overwrite: whether a file of another kind may be replaced.

    Raises:
        ConfigError: naming both files.
    """
    from pet_calc.errors import ConfigError

    if not outputs:
        return
    inputs = [path for name in read for path in _expand(name)]
    written: list[str] = []
    for output in outputs:
        for ending in ("", *output.beside):
            path = output.path + ending
            for other in inputs:
                if is_same_file(path, other):
                    same = "" if path == str(other) else f" (the same file as {path})"
                    raise ConfigError(
                        f"{other}{same}: is read, and would be overwritten; name "
                        "another output"
                    )
            for other in written:
                if is_same_file(path, other):
                    raise ConfigError(f"{path}: two outputs go there; name another")
        written += [output.path + ending for ending in ("", *output.beside)]
        if output.kind is None or may_overwrite:
            continue
        found = find_kind(Path(output.path))
        if found is not None and found != output.kind:
            raise ConfigError(
                f"{output.path}: holds {KINDS.get(found, 'something else')}, and "
                f"{KINDS[output.kind]} would replace it; add --overwrite if that is "
                "meant, or name another output"
            )


def is_same_file(one: str | Path, other: str | Path) -> bool:
    """Return whether two names lead to one file, also one that is not there yet."""
    one, other = Path(one), Path(other)
    try:
        if one.exists() and other.exists():
            return one.samefile(other)
        return one.resolve() == other.resolve()
    # a loop of links
    except (OSError, RuntimeError):
        return False


def find_obstacle(path: Path) -> str:
    """Return why a file could not be written, empty if it could."""
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}; make it first"
    if path.is_dir():
        return f"{path} is a folder; name a file in it"
    if path.exists() and not path.is_file():
        return f"{path} is no regular file; name one"
    if path.exists() and not os.access(path, os.W_OK):
        return f"{path} is write-protected; name another file"
    return _try(path.parent)


def find_folder_obstacle(path: Path) -> str:
    """Return why a folder could not be made or written to, empty if it could."""
    path = path.absolute()
    there = next(p for p in (path, *path.parents) if os.path.lexists(p))
    if not there.is_dir():
        return f"{there} is a file; name another folder"
    return _try(there)


def is_overwrite_given() -> bool:
    """Return whether ``--overwrite`` of ``overwrite_option`` is there."""
    return bool(click.get_current_context().meta.get(_OVERWRITE))


def overwrite_option(command: Any) -> Any:
    """Add ``--overwrite``, which the rule asks for; the verb does not see it."""

    def remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        ctx.meta[_OVERWRITE] = value

    return click.option(
        "--overwrite",
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Replace the output also where it is a file of another kind.",
    )(command)


def _try(folder: Path) -> str:
    """Return why nothing could be written in a folder, which is there."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"cannot write in the folder {folder}: {error.strerror or error}"
    if free < _LEAST_FREE:
        return f"the disk of {folder} is full; free some space, or name another place"
    return ""


def _to_values(value: Any) -> list[str]:
    if value is None:
        return []
    return list(value) if isinstance(value, tuple) else [str(value)]


def _expand(name: str) -> list[str]:
    """Return the files that a name of data stands for; itself if there are none."""
    from pet_calc.data.files import expand_paths
    from pet_calc.errors import DataError

    # fractions of --val, and what the verb will refuse
    if Path(name).is_file():
        return [name]
    try:
        return [path for path, _ in expand_paths(name)]
    except DataError:
        return [name]
