"""Configuration of the documentation: `make docs` builds it, without network.

Imports at the top are of the standard library and the package alone, so that pytest can collect this file.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import captum_kd

HERE = Path(__file__).resolve().parent
TUTORIALS = HERE.parent / "tutorials"

project = "captum-kd"
author = "The captum-kd authors"
copyright = author
version = release = captum_kd.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"captum-kd {version}"
html_copy_source = False
html_show_copyright = False

# Notebooks are executed by the test suite; their outputs are committed.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 90
# Defaults as written in the source: "<objects at addresses>" say nothing.
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

nitpicky = True
# Types of other libraries. Their inventories are on the web, and the build works without it.
nitpick_ignore_regex = [
    ("py:.*", r"(captum|click|matplotlib|nn|numpy|torch|torchmetrics|torchvision)\..*"),
    ("py:.*", r"(collections\.abc|functools|numbers|os|typing)\..*"),
    ("py:class", r"Tensor|Module|Figure|LayerAttribution"),
    # Names for unions, literals and type variables, which the text of each argument spells out.
    ("py:class", r"Estimator|Maps|TwoMaps|captum_kd\.models\.side\.Model"),
]


def setup(app: Any) -> None:
    """Bring the notebooks into the site, and make equations MathML, which needs no script or network."""
    app.connect("config-inited", lambda _app, _config: copy_tutorials())
    app.connect("autodoc-skip-member", lambda _app, _what, _name, member, *_: is_bare_field(member) or None)
    app.connect("autodoc-process-bases", lambda _app, _name, _object, _options, bases: public_bases(bases))
    app.connect("doctree-read", lambda _app, doctree: trim_code(doctree))
    app.connect("sphinx-click-process-options", lambda _app, _context, lines: plain_paths(lines))
    app.connect("build-finished", lambda app, _error: copy_math_font(Path(app.outdir)))
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))


def copy_tutorials() -> None:
    """Copy the notebooks beside the pages: Sphinx reads only what is below its source folder."""
    target = HERE / "tutorials"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for notebook in TUTORIALS.glob("*.ipynb"):
        shutil.copy2(notebook, target)


def trim_code(doctree: Any) -> None:
    """Take off the empty line at the end of an example, which tells doctest where its output ends."""
    from docutils import nodes

    for block in doctree.findall(nodes.literal_block):
        if len(block.children) == 1:
            text = block.astext().rstrip()
            block.rawsource = text
            block[0] = nodes.Text(text)


def plain_paths(lines: list[str]) -> None:
    """Show defaults of paths as they are typed, not as Python's objects."""
    lines[:] = [re.sub(r"\w+Path\('([^']*)'\)", r"\1", line) for line in lines]


def public_bases(bases: list[Any]) -> None:
    """Show the class of Captum's that the package's own class between it and a public one stands on."""
    for i, base in enumerate(bases):
        if base.__module__ == "captum_kd.attr.pair_attribution":
            bases[i] = base.__base__


def is_bare_field(member: Any) -> bool:
    """Whether it is a field of a named tuple that says nothing but its number; the class describes it."""
    return str(getattr(member, "__doc__", "")).startswith("Alias for field number")


def copy_math_font(site: Path) -> None:
    """Let pages bring the font of their equations along; ziamath has STIX Two Math."""
    import ziamath

    shutil.copy2(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf", site / "_static")


def visit_math(translator: Any, node: Any) -> None:
    """An equation in a line."""
    _mathml(translator, node, block=False)


def visit_math_block(translator: Any, node: Any) -> None:
    """A displayed equation, with its number if it has one."""
    _mathml(translator, node, block=True)


def _mathml(translator: Any, node: Any, block: bool) -> None:
    from docutils import nodes
    from math_core import LatexError, LatexToMathML
    from sphinx.util import logging

    try:
        mathml = LatexToMathML().convert_with_local_state(node.astext(), displaystyle=block)
    except LatexError as error:
        logging.getLogger(__name__).warning("equation %s: %s", node.astext(), error, location=node)
        raise nodes.SkipNode from error
    if not block:
        translator.body.append(mathml)
        raise nodes.SkipNode
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if node.get("number"):
        translator.body.append(f'<span class="eqno">({node["number"]})</span>')
    translator.body.append(f"{mathml}</div>\n")
    raise nodes.SkipNode
