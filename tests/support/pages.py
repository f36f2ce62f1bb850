"""Data with names that no page must run."""

from ase.io import write
from support.frames import build_frames

EVIL = '<script>document.title = "caught"</script><img src=x onerror="alert(1)">$x_1$'


def write_kinds(path, n_frames=24):
    """Write frames of two kinds, one with a name that no page must run."""
    frames = build_frames(n_frames)
    for i, frame in enumerate(frames):
        frame.info["config_type"] = EVIL if i % 3 == 0 else "water"
    write(path, frames)
    return str(path)
