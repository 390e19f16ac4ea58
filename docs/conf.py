"""How Sphinx builds the documentation: python -m sphinx -W -b html docs docs/_build/html."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from sphinx.errors import ConfigError

HERE = Path(__file__).parent
os.environ.setdefault(
    "NUMADAM_COMPILE_LINE", "0"
)  # programs of the gallery show their own
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

#: Packages of the extra `docs` that are not Sphinx's own: missing ones are named together.
NEEDED = (
    *(
        "numba",
        "scipy",
        "myst_parser",
        "numpydoc",
        "pydata_sphinx_theme",
        "sphinx_copybutton",
    ),
    *(
        "sphinx_design",
        "sphinx_gallery",
        "matplotlib",
        "skimage",
        "pywt",
        "sklearn",
    ),
)
if missing := [name for name in NEEDED if find_spec(name) is None]:
    raise ConfigError(
        f"{sys.executable} lacks {', '.join(missing)}. In the checkout: "
        f'{sys.executable} -m pip install -e ".[docs]"'
    )

import numadam  # noqa: E402  (that of this checkout)

project = "numadam"
author = "The numadam developers"
copyright = author
version = release = numadam.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "matplotlib.sphinxext.plot_directive",
    # of our own, in _ext
    "argument_links",
    "benchmark_tables",
    "command_help",
    "complete",
    "form",
    "gallery_pages",
    "mathml",
    "result_entries",
    "rule_pages",
    "wraps",
]
exclude_patterns = ["_build", "README.md", "gallery"]
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more
autodoc_preserve_defaults = True  # dtype=float, not <class 'float'>
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
default_role = "public"  # of _ext/complete.py: a link for a public name

# The pictures of the rules, drawn by _ext/valley.py.
plot_include_source = False
plot_html_show_formats = plot_html_show_source_link = False
plot_formats = ["svg"]

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"[/\\]plot_",
    "ignore_pattern": r"(^|[/\\])(?!plot_)[^/\\]*\.py$",  # modules beside the examples
    "subsection_order": [
        f"gallery/{task}" for task in ("fit", "scale", "invert", "train")
    ],
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "capture_repr": (),  # no <... object at 0x...> below a block
    "show_memory": False,
    "write_computation_times": False,
    "min_reported_time": 1,
    "remove_config_comments": True,
    "copyfile_regex": "",
    "download_all_examples": False,
    "backreferences_dir": None,
}

html_theme = "pydata_sphinx_theme"
html_title = "numadam"
html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["numadam.css"]
html_search_scorer = str(HERE / "_ext" / "scorer.js")
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {
        "image_light": "_static/logo.svg",
        "image_dark": "_static/logo.svg",
        "text": "numadam",
    },
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "navbar_align": "left",
    "pygments_dark_style": "github-dark",  # its comments are grey, not yellow
}
html_sidebars = {page: [] for page in ("index", "changelog")}

copybutton_exclude = ".linenos, .gp, .go"


def leave_out_of_search(app, page, source):
    """Keep the maintainers' pages out of the search, where they come before those of users."""
    if page.startswith("development/"):
        app.env.metadata[page]["nosearch"] = "true"


def setup(app):
    """Connect what is of this file."""
    app.connect("source-read", leave_out_of_search)
