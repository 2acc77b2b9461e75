"""Model families of public packages, each with small inputs: what the completeness tests and the figures record.

Frameworks and packages are imported when a model is built, never by importing this package.
"""

from __future__ import annotations

from importlib.util import find_spec

from . import hub, keras_models, torch_ecg, vision
from .family import Family

FAMILIES: dict[str, Family] = {
    family.name: family for module in (torch_ecg, vision, hub, keras_models) for family in module.FAMILIES
}
"""All families by name."""


def missing(family: Family) -> str | None:
    """The first package that ``family`` needs and that is not installed; None when all are there."""
    return next((package for package in family.packages if find_spec(package) is None), None)


__all__ = ["FAMILIES", "Family", "missing"]
