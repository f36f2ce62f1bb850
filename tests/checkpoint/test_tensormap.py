"""Our reading of metatensor's maps: equal to metatensor's, and never fatal."""

import io
import random
import zipfile

import metatensor.torch as mts
import pytest
import torch
from support.peer import build_dataset_info, build_peer

from pet_calc.checkpoint.layout import build_layout, encode_map
from pet_calc.checkpoint.tensormap import decode_map, decode_target
from pet_calc.errors import CheckpointError
from pet_calc.model.hypers import TargetSpec

NAMES = [
    "energy",
    "energy/pbe",
    "non_conservative_forces",
    "non_conservative_stress",
    "mtt::charges",
]


def pack(members, **options):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return torch.frombuffer(bytearray(content.getvalue()), dtype=torch.uint8)


def unpack(buffer):
    with zipfile.ZipFile(io.BytesIO(buffer.numpy().tobytes())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_values_and_labels_equal_metatensors():
    peer = build_peer(NAMES)
    buffers = {**peer.scaler.state_dict(), **peer.additive_models[0].state_dict()}
    maps = {k: v for k, v in buffers.items() if v.dtype == torch.uint8}
    assert len(maps) > 10
    for name, buffer in maps.items():
        expected = mts.load_buffer(buffer).block(0)
        found = decode_map(buffer, name)
        assert torch.equal(found.values, expected.values)
        assert found.samples.names == expected.samples.names
        assert found.samples.values == expected.samples.values.tolist()
        assert found.properties.names == expected.properties.names
        assert found.properties.values == expected.properties.values.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_survives_reading_and_writing(name):
    target = build_dataset_info([name]).targets[name]
    spec = decode_target(
        name,
        mts.save_buffer(target.layout),
        quantity=target.quantity,
        unit=target.unit,
        description="x",
    )
    assert spec.gradients == target.gradients
    assert mts.equal(build_layout(spec), target.layout)


def test_the_usual_names_are_those_of_metatrain():
    target = build_dataset_info(["non_conservative_stress"]).targets
    spec = TargetSpec("non_conservative_stress", components=[3, 3])
    layout = target["non_conservative_stress"].layout
    assert mts.equal(build_layout(spec), layout)


def test_random_damage_is_an_error_or_a_map():
    """With the zip intact: its checksum would catch most of it."""
    layout = build_layout(TargetSpec("energy", gradients=["positions"]))
    members = unpack(encode_map(layout))
    generator = random.Random(0)
    n_refused = 0
    for _ in range(1000):
        damaged = dict(members)
        name = generator.choice(list(members))
        content = bytearray(members[name])
        for _ in range(generator.randint(1, 3)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        damaged[name] = bytes(content)
        try:
            decode_map(pack(damaged), "map")
        except CheckpointError:
            n_refused += 1
    assert n_refused > 500


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000, 1), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 1), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (0, 1), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 1), }",
        "{'descr': '<f8', 'fortran_order': True, 'shape': (0, 1), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 2), }",
        "__import__('os').getcwd()",
        "(" * 5000,
    ],
)
def test_hostile_array_headers_are_errors(header):
    members = unpack(encode_map(build_layout(TargetSpec.for_energy())))
    text = header.encode() + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    members["blocks/0/values.npy"] = content
    with pytest.raises(CheckpointError, match="map"):
        decode_map(pack(members), "map")


def test_compressed_and_missing_members_are_errors():
    members = unpack(encode_map(build_layout(TargetSpec.for_energy())))
    with pytest.raises(CheckpointError, match="compressed"):
        decode_map(pack(members, compression=zipfile.ZIP_DEFLATED), "map")
    del members["blocks/0/samples.npy"]
    with pytest.raises(CheckpointError, match="damaged"):
        decode_map(pack(members), "map")


@pytest.mark.parametrize("value", [None, 3, torch.ones(3), torch.zeros(0).byte()])
def test_something_else_is_an_error(value):
    with pytest.raises(CheckpointError, match="map"):
        decode_map(value, "map")
