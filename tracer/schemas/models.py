"""Which model describes which document, and the schemas that are made of them."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from tracer.compare.baseline import Baseline
from tracer.schemas import compared, exported, recorded

DRAFT = "https://json-schema.org/draft/2020-12/schema"
MODELS: dict[str, Any] = {
    "baseline": Baseline,
    "copy": recorded.Copy,
    "daemon": recorded.Daemon,
    "diff": compared.Diff,
    "event": recorded.Event,
    "explain": compared.Explain,
    "export": exported.Export,
    "graft": Annotated[
        compared.GraftExplained | compared.GraftedAt,
        Field(description="tracer graft: which defects the outputs' difference comes from, or one graft (--at)."),
    ],
    "graphs": exported.Graphs,
    "growth": compared.Growth,
    "info": recorded.Info,
    "inspect": recorded.Inspect,
    "map": recorded.Map,
    "pack": recorded.Pack,
    "record": recorded.Record,
    "runs": recorded.Runs,
    "show": exported.Show,
    "steps": compared.Steps,
    "transfer": compared.Transfer,
    "weights": recorded.Weights,
}


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a document."""
    made = TypeAdapter(MODELS[name]).json_schema(by_alias=True, schema_generator=_Plain)
    return {"$schema": DRAFT, "title": f"tracer {name}", **made}


def dumped(name: str) -> str:
    """A schema as the text of its file."""
    return json.dumps(schema(name), indent=1, ensure_ascii=False) + "\n"


class _Plain(GenerateJsonSchema):
    """Schemas without titles, which repeat the keys."""

    def generate(self, schema: Any, mode: Any = "validation") -> dict[str, Any]:
        made: dict[str, Any] = _untitled(super().generate(schema, mode))
        return made


def _untitled(value: Any) -> Any:
    """A schema whose objects have no ``title`` of pydantic's; keys of documents (under ``properties``) stay."""
    if isinstance(value, list):
        return [_untitled(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: {name: _untitled(item) for name, item in found.items()} if key in ("properties", "$defs") else
        _untitled(found)
        for key, found in value.items()
        if key != "title" or not isinstance(found, str)
    }  # fmt: skip
