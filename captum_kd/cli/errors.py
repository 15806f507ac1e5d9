"""Errors of the command line as one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

_DISTILL_MODULES = ("lightning", "sklearn", "timm")


@contextmanager
def explained_errors(hint: str = "") -> Iterator[None]:
    """Show expected errors as one line: bad values, files that cannot be read or written, a missing extra.

    Args:
        hint: Sentence that is added if a file could not be read or written.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _DISTILL_MODULES:
            raise
        raise click.ClickException(
            f"This command needs the extra 'distill' ({error}): pip install 'captum-kd[distill]'."
        ) from error
    except (ValueError, TypeError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error}. {hint}".strip()) from error
