"""Hold the files of containers/ to the schemas that packages carry; print what is wrong, as JSON by file.

    python check.py FOLDER

Kubernetes: `kubernetes-validate`, strictly, so that a misspelt key is an error. KServe: the types in `kserve`'s
generated models, as a schema in which Kubernetes' own objects are those of `kubernetes-validate`. Compose: the
specification's schema in `check-jsonschema`. Dockerfile: `hadolint`.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from referencing import Registry, Resource

KUBERNETES = "1.37"
SCHEMAS = files(kubernetes_validate) / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local-strict"
DEFINITIONS = json.loads((SCHEMAS / "_definitions.json").read_text())
KSERVE = Path(next(path for path in sys.path if (Path(path) / "kserve").is_dir())) / "kserve" / "models"
PLAIN = {"str": "string", "int": "integer", "bool": "boolean", "float": "number"}


def check_kubernetes(path: Path) -> list[str]:
    """Hold a file to Kubernetes' schemas."""
    problems = []
    for document in yaml.safe_load_all(path.read_text()):
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            problems.append(str(error.message))
    return problems


def check_kserve(path: Path) -> list[str]:
    """Hold a file to the types of KServe's models."""
    document = yaml.safe_load(path.read_text())
    version = document["apiVersion"].rpartition("/")[2].capitalize()
    schema = object_schema(version + document["kind"])
    registry = Resource.from_contents(DEFINITIONS) @ Registry()
    validator = jsonschema.Draft202012Validator(schema, registry=registry)
    return [error.message for error in validator.iter_errors(document)]


def object_schema(name: str) -> dict[str, Any]:
    """Return the schema of an object by the name of its model."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    path = KSERVE / f"{snake}.py"
    if not path.exists():
        return kubernetes_schema(name)
    body = next(node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)).body
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    names = tables["attribute_map"]
    fields = {names[key]: schema_of(kind) for key, kind in tables["openapi_types"].items()}
    return {"type": "object", "properties": fields, "additionalProperties": False}


def schema_of(kind: str) -> dict[str, Any]:
    """Return the schema of a type as OpenAPI's generator writes it."""
    if kind in PLAIN:
        return {"type": PLAIN[kind]}
    if kind.startswith("list["):
        return {"type": "array", "items": schema_of(kind[5:-1])}
    if kind.startswith("dict("):
        return {"type": "object", "additionalProperties": schema_of(kind[5:-1].partition(", ")[2])}
    return object_schema(kind) if kind.startswith("V1") else {}


def kubernetes_schema(name: str) -> dict[str, Any]:
    """Return the schema of an object of Kubernetes itself, such as V1Container."""
    group = "apimachinery.pkg.apis.meta" if name == "V1ObjectMeta" else "api.core"
    return {"$ref": f"{DEFINITIONS['$id']}#/$defs/io.k8s.{group}.v1.{name.removeprefix('V1')}"}


def check_compose(path: Path) -> list[str]:
    """Hold a file to the compose specification."""
    line = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "-o", "json", str(path)]
    told = json.loads(subprocess.run(line, check=False, capture_output=True, text=True).stdout)
    return [error["message"] for error in told["errors"]] + list(map(str, told.get("parse_errors", ())))


def check_dockerfile(path: Path) -> list[str]:
    """Hold a Dockerfile to hadolint's rules."""
    done = subprocess.run(
        [tool("hadolint"), "--format", "json", str(path)], check=False, capture_output=True, text=True
    )
    return [f"{rule['line']}: {rule['code']} {rule['message']}" for rule in json.loads(done.stdout)]


def tool(name: str) -> str:
    """Return a program of this environment."""
    return str(Path(sys.executable).with_name(name))


CHECKS = {
    "Dockerfile": check_dockerfile,
    "compose.yaml": check_compose,
    "kubernetes/*.yaml": check_kubernetes,
    "kserve/*.yaml": check_kserve,
}

if __name__ == "__main__":
    root = Path(sys.argv[1])
    found = {path: check(path) for pattern, check in CHECKS.items() for path in sorted(root.glob(pattern))}
    print(json.dumps({str(path.relative_to(root)): problems for path, problems in found.items()}))
