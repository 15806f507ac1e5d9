"""A self-contained HTML page: one file that opens offline."""

from __future__ import annotations

import base64
import io
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from captum_kd.report.tables import Table


def render_page(template: str, **values: Any) -> str:
    """Fill a template of the package.

    Args:
        template: The name of a file in ``captum_kd/report/templates``.
        **values: The values that the template names. Text is escaped, a :class:`Table` becomes an HTML table,
            and a figure becomes an embedded PNG.

    Returns:
        The page.

    Raises:
        jinja2.UndefinedError: The template names a value that was not given.
    """
    environment = Environment(
        loader=PackageLoader("captum_kd.report"), autoescape=True, undefined=StrictUndefined
    )
    environment.globals["percent"] = lambda share: f"{100 * share:.0f} %"
    return environment.get_template(template).render({k: _embed(v) for k, v in values.items()})


def png(figure: Figure, dpi: int = 160) -> bytes:
    """Encode a figure as PNG.

    Args:
        figure: The figure.
        dpi: Pixels per inch.

    Returns:
        The bytes of the file.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _embed(value: Any) -> Any:
    if isinstance(value, Table):
        return Markup(value.to_html())
    if isinstance(value, Figure):
        return Markup("data:image/png;base64," + base64.b64encode(png(value)).decode())
    return value
