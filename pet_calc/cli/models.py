"""The verb ``models``: which models can be used by name."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pet_calc.hub import ModelEntry

_HEADINGS = {
    "bundled": "bundled with pet-calc",
    "placed": "on this machine, copied by hand",
    "cached": "on this machine, in the cache of Hugging Face",
    "hub": "on Hugging Face, downloaded when first used",
    "known": "published so far, downloaded when first used (--online asks again)",
}


@click.command("models")
@click.option("--online", is_flag=True, help="Ask Hugging Face which there are now.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON, for programs.")
def command(online: bool, is_json: bool) -> None:
    """List the models that a name stands for, in place of a file.

    A name without its version, as in pet-mad-s, means the latest. HF_HOME says where
    downloads go, HF_TOKEN is used if set, HF_HUB_OFFLINE=1 keeps from asking.

    \b
    Examples:
      pet-calc models
      pet-calc models --online
      pet-calc info pet-mad-s-v1.5.0
    """
    import json
    from dataclasses import asdict

    from pet_calc.hub import list_models

    entries = list_models(is_online=online)
    if is_json:
        click.echo(json.dumps([asdict(e) for e in entries], indent=2))
        return
    for where, heading in _HEADINGS.items():
        found = [entry for entry in entries if entry.where == where]
        if found:
            click.echo(f"{heading}:")
        for entry in found:
            click.echo(_format(entry))


def _format(entry: "ModelEntry") -> str:
    size = f"{entry.n_weights} weights"
    if entry.size_bytes is not None:
        size = f"{entry.size_bytes / 1e6:.1f} MB"
    return f"  {entry.name:24}{size:>15}  {entry.path or entry.about}".rstrip()
