"""What the report's page and the comparison's share: their templates, and scripts that nothing else may join.

A page holds plotly.js, its style and its data in one file. Its Content-Security-Policy names the digests of its own
scripts, so that nothing a model file's names might smuggle in could ever run, and lets it load nothing from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import units, words

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def fill(template: str, scripts: Sequence[str], values: Mapping[str, Any]) -> str:
    """The text of a page with plotly.js and the named scripts of ours."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(units=units, words=words)
    # A name made to look like another by control or direction marks is shown as what it is.
    environment.finalize = _shown
    environment.filters["product"] = math.prod
    environment.filters["breakable"] = _breakable
    texts = {name: _own(f"{name}.js") for name in scripts} | {"plotly": _plotly()}
    return environment.get_template(template).render(
        scripts=texts, style=_own("report.css"), policy=_policy(texts), **values
    )


def _shown(value: object) -> object:
    return units.printable(value) if type(value) is str and not value.isprintable() and "\n" not in value else value


def _breakable(name: str) -> Markup:
    """A name that may go on in the next line after its dots, rather than in the middle of a word."""
    from markupsafe import Markup

    return Markup(".<wbr>").join(units.printable(name).split("."))


def _own(name: str) -> Markup:
    """Our own file, put into the page as it is."""
    from markupsafe import Markup

    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _plotly() -> Markup:
    """plotly.js. An end tag within would end the script; inside JavaScript strings the two spellings are the same."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return Markup(str(get_plotlyjs()).replace("</script", "<\\/script").replace("\r\n", "\n"))


def _policy(scripts: Mapping[str, str]) -> str:
    digests = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts.values()
    )
    return (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
