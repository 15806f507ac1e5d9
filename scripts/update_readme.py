"""Put a demo's output into the repository: its tables into the README, its figures and numbers into docs.

captum-kd demo --out captum-kd-demo && python scripts/update_readme.py captum-kd-demo
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Take tables, figures and numbers from FOLDER, which captum-kd demo wrote."""
    readme = ROOT / "README.md"
    tables = (folder / "tables.md").read_text("utf-8").strip()
    block = f"<!-- demo -->\n{tables}\n<!-- /demo -->"
    text, count = re.subn(
        "<!-- demo -->.*<!-- /demo -->", lambda _: block, readme.read_text("utf-8"), flags=re.S
    )
    if count != 1:
        raise click.ClickException("README.md needs the markers <!-- demo --> and <!-- /demo --> once.")
    readme.write_text(text, "utf-8")
    for name in ("maps.png", "separation.png"):
        shutil.copyfile(folder / name, ROOT / "docs" / "images" / name)
    shutil.copyfile(folder / "results.json", ROOT / "docs" / "demo_results.json")


if __name__ == "__main__":
    main()
