"""The site: `sphinx-build docs build/site`, or `tox -e docs`, which also looks at what was built."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

project = "ebmkit"
author = "The ebmkit authors"
project_copyright = f"2026, {author}"

extensions = ["myst_nb", "sphinx_copybutton", "sphinx_design", "mathml", "shell_cells"]
exclude_patterns = ["news", "measurements", "**/.ipynb_checkpoints"]

html_theme = "furo"
html_title = "ebmkit"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
# Summaries of what was found are fetched page by page, which browsers refuse for files.
html_show_search_summary = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
copybutton_exclude = ".linenos, .gp, .go"

nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_merge_streams = True
# Pages are executed by processes of their own, which have this of their surroundings.
os.environ["MATPLOTLIBRC"] = str(HERE / "matplotlibrc")
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
