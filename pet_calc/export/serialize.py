"""The bytes of an exported model, so that Python writes the file.

TorchScript's own writer ends the process when a disk is full.
"""

import threading
from io import BytesIO
from typing import Any
from unittest.mock import patch

import torch
from metatomic.torch import AtomisticModel

_LOCK = threading.Lock()
# no file's name: what metatomic hands to the writer shows that the call is ours
_NAME = "pet-calc: bytes of a model.pt"


def serialize(model: AtomisticModel) -> bytes:
    """Return what ``model.save`` would write, metatomic's entries included."""
    buffer = BytesIO()
    save = torch.jit.save

    def catch(module: Any, file: Any, _extra_files: Any = None) -> None:
        is_ours = str(file) == _NAME
        save(module, buffer if is_ours else file, _extra_files=_extra_files)

    # metatomic takes only names of files
    with _LOCK, patch.object(torch.jit, "save", catch):
        model.save(_NAME)
    return buffer.getvalue()
