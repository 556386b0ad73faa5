"""Sphinx configuration: MyST Markdown, the furo theme, and no warning tolerated (`make docs`)."""

project = "shared-sequencer"
author = "the shared-sequencer contributors"
copyright = "2026, the shared-sequencer contributors. Apache-2.0"

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = "shared-sequencer"
