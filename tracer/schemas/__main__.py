"""``python -m tracer.schemas``: write the schemas' files anew from the models."""

from __future__ import annotations

from pathlib import Path

from tracer.schemas.models import MODELS, dumped

if __name__ == "__main__":
    for name in MODELS:
        Path(__file__).with_name(f"{name}.json").write_text(dumped(name), encoding="utf-8")
