"""A damaged file is refused in one line, or was damaged where nothing is."""

import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.models import build_lora_model, build_model

from pet_calc.checkpoint import Checkpoint, save_checkpoint
from pet_calc.checkpoint.adapter import save_adapter
from pet_calc.checkpoint.archive import verify_archive
from pet_calc.errors import CheckpointError
from pet_calc.export import export_model
from pet_calc.lora import compute_fingerprint, extract_adapter

SCRIPT = Path(__file__).parents[1] / "support" / "open_damaged.py"
FOREIGN = Path(__file__).resolve().parents[3] / "shared" / "checkpoints" / "pet"


def write(kind, folder):
    """A small file of each kind."""
    path = folder / "model"
    if kind == "export":
        return export_model(build_model(), path.with_suffix(".pt"), check=False)
    if kind == "checkpoint":
        path = path.with_suffix(".ckpt")
        save_checkpoint(path, Checkpoint.from_model(build_model()))
        return path
    if kind == "adapter":
        path = path.with_suffix(".safetensors")
        model = build_lora_model()
        fingerprint = compute_fingerprint(build_model().state_dict())
        save_adapter(path, extract_adapter(model, base_fingerprint=fingerprint))
        return path
    files = sorted(FOREIGN.glob("*.ckpt.gz"))
    if not files:
        pytest.skip(f"no reference checkpoints in {FOREIGN}")
    # gzip has a checksum of its own over all; what is inside must do without
    path = path.with_suffix(".ckpt")
    path.write_bytes(gzip.decompress(files[-1].read_bytes()))
    return path


@pytest.mark.parametrize(
    ("kind", "n_copies"),
    [("checkpoint", 60), ("adapter", 60), ("metatrain", 60), ("export", 40)],
)
def test_damage_never_gives_other_numbers_or_a_traceback(kind, n_copies, tmp_path):
    path = write(kind, tmp_path)
    done = subprocess.run(
        [sys.executable, SCRIPT, path, kind, "0", str(n_copies)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout[-300:], done.stderr[-2000:])
    lines = done.stdout.splitlines()
    assert len(lines) == n_copies
    decoder = json.JSONDecoder()
    outcomes = {}
    for line in lines:
        what, end = decoder.raw_decode(line)
        outcomes[what] = json.loads(line[end:])
    bad = {k: v for k, v in outcomes.items() if v not in ("same", "refused")}
    assert not bad
    # most of a file matters
    assert sum(v == "refused" for v in outcomes.values()) > 0.6 * n_copies


def test_a_flipped_bit_in_any_part_of_an_export_is_found(tmp_path):
    path = write("export", tmp_path)
    verify_archive(path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda part: part.compress_size)
    # not in the padding before a part, which nobody reads
    content[largest.header_offset + 200 + largest.compress_size // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        verify_archive(path)
