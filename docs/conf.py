"""How Sphinx builds the documentation: ``make docs``."""

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from generate import render_commands, render_findings, render_limits

project = "pet-calc"
author = "The pet-calc developers"
release = metadata.version("pet-calc")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
exclude_patterns = ["build"]
html_theme = "furo"
html_title = f"pet-calc {release}"
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# made anew from the code; Sphinx reads what is on disk
for name, text in (
    ("findings", render_findings()),
    ("commands", render_commands()),
    ("limits", render_limits()),
):
    (HERE / "reference" / f"{name}.md").write_text(text, encoding="utf-8")
