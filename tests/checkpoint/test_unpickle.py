"""Hostile and damaged files are refused, and nothing in them runs."""

import builtins
import gzip
import os
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch

from pet_calc.checkpoint.unpickle import read_archive
from pet_calc.errors import CheckpointError

FLOATS = torch.arange(4, dtype=torch.float32)
# an allowed function and a storage of four floats, to build attacks on
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"
STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
)
TENSOR = REBUILD + b"(" + STORAGE + b"K\x00K\x04\x85K\x01\x85\x89" + ORDERED + b")RtR"


def write_archive(path, program, storages=None, **options):
    """A zip file as torch.save makes them, around any pickle."""
    if storages is None:
        storages = {"0": FLOATS.numpy().tobytes()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("model/data.pkl", program)
        archive.writestr("model/byteorder", "little")
        for key, content in storages.items():
            archive.writestr(f"model/data/{key}", content)
    return path


class Runs:
    """Pickles to a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def list_attacks(canary):
    """Name and pickle of attacks; most would make the file ``canary``."""
    command = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    for protocol in range(2, 6):
        for name, attack in {
            "system": Runs(os.system, command),
            "eval": Runs(eval, code),
            "exec": Runs(exec, code),
            "import": Runs(builtins.__import__, "this"),
            "torch.load": Runs(torch.load, str(canary)),
            "open": Runs(open, str(canary), "w"),
            "nested": {"model_state_dict": {"a": [1, {"b": Runs(os.system, command)}]}},
        }.items():
            yield f"{name}-{protocol}", pickle.dumps(attack, protocol)
    text = b"X" + len(command).to_bytes(4, "little") + command.encode()
    yield "system by hand", b"\x80\x02cos\nsystem\n" + text + b"\x85R."
    yield "posix", b"\x80\x02cposix\nsystem\n" + text + b"\x85R."
    yield "inst", b"(" + text + b"ios\nsystem\n."
    yield "obj", b"(cos\nsystem\n" + text + b"o."
    yield "stack global", b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text + b"\x85R."
    yield (
        "dotted name",
        b"\x80\x04\x8c\x05torch\x8c\x08hub.load\x93X\x01\x00\x00\x00x\x85R.",
    )
    yield (
        "getattr",
        b"\x80\x02cbuiltins\ngetattr\nctorch\nhub\nX\x04\x00\x00\x00load\x86R.",
    )
    yield "old getattr", b"\x80\x02c__builtin__\ngetattr\n)R."
    yield "method", b"\x80\x04\x8c\x05torch\x8c\x0bTensor.set_\x93."
    yield "extension", b"\x80\x02\x82\x01."
    yield "newobj_ex", b"\x80\x04" + ORDERED + b")}\x92."
    yield "text persistent id", b"P0\n."


def list_misuses():
    """Name and pickle of misuses of what is allowed."""
    slots = b"N}X\x08\x00\x00\x00__code__K\x01s\x86b."  # state (None, {"__code__": 1})
    yield "build on a function", b"\x80\x02" + REBUILD + b"}b."
    yield "slots of a function", b"\x80\x02" + REBUILD + slots
    yield "build on a class", b"\x80\x02ctorch\nScriptObject\n" + slots
    yield "build on a mapping class", b"\x80\x02" + ORDERED + slots
    yield "build on a dtype", b"\x80\x02ctorch\nfloat32\n}b."
    yield "build on a storage kind", b"\x80\x02ctorch\nFloatStorage\n" + slots
    yield "build on a list", b"\x80\x02]}b."
    yield "build on a dict", b"\x80\x02}}b."
    # Tensor.__setstate__ would call set_ with these
    tensor_state = b"(" + STORAGE + b"K\x00M\xff\xff\x85K\x01\x85tb."
    yield "build on a tensor", b"\x80\x02" + TENSOR + tensor_state
    yield "build on a storage", b"\x80\x02" + STORAGE + b"}b."
    yield "call of a class", b"\x80\x02ctorch\nScriptObject\n)R."
    yield "call of a storage kind", b"\x80\x02ctorch\nFloatStorage\nK\x04\x85R."
    yield "call of a tensor", b"\x80\x02" + TENSOR + b")R."
    yield "call without a tuple", b"\x80\x02" + ORDERED + b"]R."
    yield "new function", b"\x80\x02" + REBUILD + b")\x81."
    yield "new object with arguments", b"\x80\x02ctorch\nScriptObject\nK\x01\x85\x81."
    yield "new tensor", b"\x80\x02" + TENSOR + b")\x81."
    yield (
        "numpy object type",
        b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.",
    )
    yield "memo bomb", b"\x80\x02]r\xff\xff\xff\x7f."
    yield "stack underflow", b"\x80\x02b."
    yield "nothing", b""
    yield "no stop", b"\x80\x02]"
    yield "unknown memo", b"\x80\x02h\x09."


def list_bad_tensors():
    """Name and pickle of tensors and storages that reach outside the file."""
    head = b"\x80\x02" + REBUILD + b"(" + STORAGE
    tail = b"\x89" + ORDERED + b")RtR."
    yield "offset", head + b"K\x01K\x04\x85K\x01\x85" + tail
    yield "negative offset", head + b"J\xff\xff\xff\xffK\x04\x85K\x01\x85" + tail
    yield "boolean offset", head + b"\x88K\x02\x85K\x01\x85" + tail
    yield "stride", head + b"K\x00K\x02\x85K\x04\x85" + tail
    yield "negative stride", head + b"K\x03K\x02\x85J\xff\xff\xff\xff\x85" + tail
    yield "size", head + b"K\x00K\x05\x85K\x01\x85" + tail
    yield "stride zero bomb", head + b"K\x00J\xff\xff\xff\x7f\x85K\x00\x85" + tail
    yield "more strides", head + b"K\x00K\x02\x85K\x01K\x01\x86" + tail
    yield (
        "float size",
        head + b"K\x00G?\xf0\x00\x00\x00\x00\x00\x00\x85K\x01\x85" + tail,
    )
    yield "no storage", b"\x80\x02" + REBUILD + b"(NK\x00K\x04\x85K\x01\x85" + tail
    for name, pid in {
        "no tuple": b"X\x07\x00\x00\x00storage",
        "empty tuple": b")",
        "module": b"(X\x06\x00\x00\x00module" + STORAGE[13:-1],
        "key with a path": STORAGE[:-1].replace(
            b"X\x01\x00\x00\x000", b"X\x0b\x00\x00\x00../data.pkl"
        ),
        "missing key": STORAGE[:-1].replace(
            b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x007"
        ),
        "number as key": STORAGE[:-1].replace(b"X\x01\x00\x00\x000", b"K\x00"),
        "kind": STORAGE[:-1].replace(b"ctorch\nFloatStorage\n", b"N"),
        "too large": STORAGE[:-1].replace(b"K\x04t", b"K\x05t"),
        "too small": STORAGE[:-1].replace(b"K\x04t", b"K\x03t"),
        "boolean size": STORAGE[:-1].replace(b"K\x04t", b"\x88t"),
    }.items():
        yield f"storage: {name}", b"\x80\x02" + pid + b"Q."


@pytest.mark.parametrize("name", [name for name, _ in list_attacks("x")])
def test_an_attack_is_refused_and_does_not_run(name, tmp_path):
    canary = tmp_path / "canary"
    program = dict(list_attacks(canary))[name]
    path = write_archive(tmp_path / "model.ckpt", program)
    with pytest.raises(CheckpointError, match="refused") as caught:
        read_archive(path)
    assert str(path) in str(caught.value)
    assert not canary.exists()


def test_the_attacks_are_real(tmp_path):
    canary = tmp_path / "canary"
    for name in ("system-2", "inst", "obj", "stack global", "system by hand"):
        pickle.loads(dict(list_attacks(canary))[name])
        assert canary.exists(), name
        canary.unlink()


@pytest.mark.parametrize("name", [name for name, _ in list_misuses()])
def test_a_misuse_of_what_is_allowed_is_an_error(name, tmp_path):
    path = write_archive(tmp_path / "model.ckpt", dict(list_misuses())[name])
    with pytest.raises(CheckpointError):
        read_archive(path)


@pytest.mark.parametrize("name", [name for name, _ in list_bad_tensors()])
def test_a_tensor_outside_its_storage_is_refused(name, tmp_path):
    path = write_archive(tmp_path / "model.ckpt", dict(list_bad_tensors())[name])
    with pytest.raises(CheckpointError, match=r"refused|storage"):
        read_archive(path)


def test_the_message_names_what_was_asked_for(tmp_path):
    program = b"\x80\x02cos\nsystem\n."
    path = write_archive(tmp_path / "model.ckpt", program)
    with pytest.raises(CheckpointError, match=r"os\.system"):
        read_archive(path)


def test_the_honest_tensor_of_these_tests_loads(tmp_path):
    path = write_archive(tmp_path / "model.ckpt", b"\x80\x02" + TENSOR + b".")
    assert torch.equal(read_archive(path), FLOATS)


def test_random_damage_is_an_error_or_plain_data(tmp_path):
    content = {"a": torch.randn(3, 4), "b": [1, 2.0, "x", None, (True, {1, 2})]}
    torch.save(content, tmp_path / "good.ckpt")
    with zipfile.ZipFile(tmp_path / "good.ckpt") as archive:
        program = archive.read("good/data.pkl")
        storage = archive.read("good/data/0")
    generator = random.Random(0)
    n_refused = 0
    for _ in range(400):
        damaged = bytearray(program)
        for _ in range(generator.randint(1, 3)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path = write_archive(tmp_path / "bad.ckpt", bytes(damaged), {"0": storage})
        try:
            read_archive(path)
        except CheckpointError:
            n_refused += 1
    assert n_refused > 200


def test_everything_that_torch_saves_comes_back(tmp_path):
    base = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    content = {
        "transposed": base.T,
        "slice": base[1:3, ::2],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "state": torch.nn.Linear(2, 3).state_dict(),
        "size": torch.Size([1, 2]),
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "number": np.float64(2.5),
        "integer": np.int64(7),
        "set": {1, 2},
        "infinite": float("inf"),
        "large": 2**70,
    }
    for dtype in (torch.bfloat16, torch.float16, torch.int8, torch.bool, torch.int16):
        content[str(dtype)] = torch.ones(3, dtype=dtype)
    torch.save(content, tmp_path / "model.pt")
    found = read_archive(tmp_path / "model.pt")
    assert list(found) == list(content)
    for name, value in content.items():
        if isinstance(value, torch.Tensor):
            assert found[name].dtype == value.dtype
            assert torch.equal(found[name], value)
    assert found["size"] == (1, 2)
    assert found["dtype"] is torch.float32
    assert found["device"] == "cpu"
    assert (found["number"], found["integer"], found["set"]) == (2.5, 7, {1, 2})
    assert (found["infinite"], found["large"]) == (float("inf"), 2**70)
    assert torch.equal(found["state"]["weight"], content["state"]["weight"])


def test_truncated_files_are_errors(tmp_path):
    torch.save({"a": torch.ones(1000)}, tmp_path / "good.ckpt")
    content = (tmp_path / "good.ckpt").read_bytes()
    packed = gzip.compress(content)
    path = tmp_path / "bad.ckpt"
    for whole in (content, packed):
        for n_bytes in (0, 1, 2, 100, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:n_bytes])
            with pytest.raises(CheckpointError, match=r"bad\.ckpt"):
                read_archive(path)


def test_flipped_bits_in_a_weight_are_an_error(tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({"a": torch.ones(1000)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="CRC"):
        read_archive(path)


@pytest.mark.parametrize("packed", [False, True])
def test_other_files_are_errors(tmp_path, packed):
    path = tmp_path / "model.ckpt"
    for content in (b"architecture: {name: pet}\n", os.urandom(500), b"PK\x03\x04" * 9):
        path.write_bytes(gzip.compress(content) if packed else content)
        with pytest.raises(CheckpointError, match="expected a model checkpoint"):
            read_archive(path)


def test_old_pickles_without_a_zip_are_errors(tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({"a": 1}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="expected a model checkpoint"):
        read_archive(path)


def test_missing_files_and_folders_are_errors(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_archive(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match="folder"):
        read_archive(tmp_path)


def test_a_zip_of_something_else_is_an_error(tmp_path):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("frames.xyz", "1\n\nH 0 0 0\n")
    with pytest.raises(CheckpointError, match=r"torch\.save"):
        read_archive(path)


def test_a_compressed_member_is_refused(tmp_path):
    path = write_archive(
        tmp_path / "bomb.ckpt",
        b"\x80\x02" + TENSOR + b".",
        compression=zipfile.ZIP_DEFLATED,
    )
    with pytest.raises(CheckpointError, match="compressed"):
        read_archive(path)


def test_a_gzip_bomb_stops_early(tmp_path, monkeypatch):
    monkeypatch.setattr("pet_calc.checkpoint.unpickle.MAX_BYTES", 2**20)
    path = tmp_path / "bomb.ckpt.gz"
    path.write_bytes(gzip.compress(bytes(2**25)))
    with pytest.raises(CheckpointError, match="larger than"):
        read_archive(path)
