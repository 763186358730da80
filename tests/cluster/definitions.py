"""A custom resource against the schema of its own CustomResourceDefinition, as a Kubernetes API server checks it.

Stricter in one thing: a field that the schema does not know, which the server would drop without a word, is an error.
Not covered: validation rules in CEL, defaults, formats of numbers.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import yaml

OPEN = "x-kubernetes-preserve-unknown-fields"


def definition(folder: Path, kind: str, version: str) -> dict[str, Any]:
    """The schema of a kind at a version, from the definitions (`*.yaml`) of a folder; LookupError where it has none."""
    for path in sorted(folder.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if not document or document.get("kind") != "CustomResourceDefinition":
                continue
            if document["spec"]["names"]["kind"] != kind:
                continue
            for served in document["spec"]["versions"]:
                if served["name"] == version:
                    found: dict[str, Any] = served["schema"]["openAPIV3Schema"]
                    return found
    raise LookupError(f"no definition of {kind} {version} in {folder}")


def violations(resource: Any, schema: dict[str, Any]) -> list[str]:
    """What is wrong with a resource, "path: message" each; [] where it meets the schema."""
    validator = jsonschema.Draft202012Validator(_strict(schema))
    found = sorted(validator.iter_errors(resource), key=lambda error: list(map(str, error.absolute_path)))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its objects closed, and with `nullable` in jsonschema's words."""
    closed = copy.copy(schema)
    if "properties" in schema:
        closed["properties"] = {name: _strict(inner) for name, inner in schema["properties"].items()}
        if not schema.get(OPEN) and "additionalProperties" not in schema:
            closed["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            closed[key] = _strict(schema[key])
    if schema.get("nullable") and "type" in schema:
        closed["type"] = [schema["type"], "null"]
    return closed
