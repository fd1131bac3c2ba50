"""How Sphinx makes a site of the lessons: python -m sphinx -W --keep-going -c notebooks/site notebooks build/site

Pages show the stored outputs; nothing is executed, and no page loads anything from the network. What a figure shows
is said in the metadata of the cell that draws it, {"mystnb": {"image": {"alt": "..."}}}; the tag hide-output folds what
came of a cell, hide-input code that only draws. In another language (notebooks/translate.py writes this file with its
words, too) the command is the same: python -m sphinx -W --keep-going -c build/ko/site build/ko build/site/ko
"""

import json

from minexaone.touch import MIME, for_site

project = "EXAONE 4.0, built piece by piece"
author = "the authors of minexaone"
html_title = project
language = "en"

extensions = ["myst_nb", "sphinx-mathjax-offline"]  # formulas with a MathJax of the site's own
exclude_patterns = ["site", "README.md", "**.ipynb_checkpoints"]  # README.md: in build/ko, to be read there
templates_path = ["."]
nb_execution_mode = "off"
nb_code_prompt_show = "Show the {type}"  # of a cell with the tag hide-output or hide-input
nb_code_prompt_hide = "Hide the {type}"
nb_merge_streams = True  # what a cell printed is one block, as in JupyterLab
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
nitpicky = True  # a reference that leads nowhere is a warning

html_theme = "sphinx_book_theme"
html_static_path = ["lessons.css", "touch"]  # touch/: what draws the figures to touch, with its licenses
html_css_files = ["lessons.css"]
html_copy_source = True  # a button downloads the notebook
html_show_copyright = False
html_use_index = False
html_theme_options = {
    "show_toc_level": 2,
    "use_fullscreen_button": False,
    "article_header_start": ["toggle-primary-sidebar.html", "languages.html"],
    "navbar_persistent": [],  # the sidebar has the search; an empty bar above the page is not needed
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


RUNTIME = ["vega.min.js", "vega-lite.min.js", "vega-embed.min.js", "typing.js", "touch.js"]


def place_figures(app, docname, source):
    """Give the site's pages their figures to touch, as data in a place where touch.js draws them."""
    if MIME not in source[0]:
        return
    notebook = json.loads(source[0])
    for output in (output for cell in notebook["cells"] for output in cell.get("outputs", ())):
        if spec := output.get("data", {}).get(MIME):
            data = json.dumps(for_site(spec), ensure_ascii=False).replace("</", "<\\/")
            words = spec["description"].replace("&", "&amp;").replace("<", "&lt;")
            output["data"] = {"text/html": f'<div class="touch"><div></div><noscript>{words}</noscript>'
                                           f'<script type="application/json">{data}</script></div>'}
    source[0] = json.dumps(notebook)


def load_runtime(app, pagename, templatename, context, doctree):
    """Load what draws them on the pages that have some."""
    if 'class="touch"' in context.get("body", ""):
        for file in RUNTIME:
            app.add_js_file(file, loading_method="defer")


def setup(app):
    """Sphinx calls this."""
    app.connect("source-read", place_figures)
    app.connect("html-page-context", load_runtime)
