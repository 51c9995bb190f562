"""``GET /openapi.json``: true to the routes that there are, and to the specification."""

from __future__ import annotations

import re
from typing import Any

import pytest
import requests
import schemathesis
from starlette.routing import Match, Route

from edgeferry_runtime.serving.rest.app import make_app
from edgeferry_runtime.serving.rest.openapi import document
from edgeferry_runtime.serving.telling import Telling


def operations(described: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, one) for path, item in described["paths"].items() for method, one in item.items()]


@pytest.fixture(scope="module")
def described(people: Any) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{people.http}/openapi.json", timeout=60).json()
    return found


def test_it_is_what_openapi_3_1_says(described: dict[str, Any]) -> None:
    schemathesis.openapi.from_dict(described).validate()
    assert described["openapi"] == "3.1.0"
    names = [one["operationId"] for _, _, one in operations(described)]
    assert len(names) == len(set(names)) > 20


def test_every_reference_leads_somewhere_and_every_component_is_used(described: dict[str, Any]) -> None:
    used = set(re.findall(r"#/components/(\w+)/(\w+)", str(described)))
    components = described["components"]
    assert used == {(kind, name) for kind in ("schemas", "responses") for name in components[kind]}


def test_it_has_every_route_and_nothing_else(people: Any, described: dict[str, Any]) -> None:
    routes = [route for route in make_app(people.service, Telling()).routes if isinstance(route, Route)]
    reached = set()
    for path, method, _ in operations(described):
        scope = {"type": "http", "method": method.upper(), "path": re.sub(r"\{\w+\}", "1", path)}
        found = next((route for route in routes if route.matches(scope)[0] is Match.FULL), None)
        assert found, f"there is no route for {method} {path}"
        reached.add((found.path, method.upper()))
    assert reached == {(route.path, method) for route in routes for method in (route.methods or set()) - {"HEAD"}}


def test_models_are_offered_by_name(described: dict[str, Any]) -> None:
    named = [one for _, _, operation in operations(described) for one in operation.get("parameters", ())]
    models = [one["schema"] for one in named if one["name"] in ("model", "name")]
    assert models and all(schema == {"type": "string", "enum": ["blind", "digits"]} for schema in models)


def test_a_server_without_a_model_takes_any_name() -> None:
    (schema,) = {
        str(one["schema"]) for one in document([], secured=False)["paths"]["/v2/models/{model}"]["get"]["parameters"]
    }
    assert schema == "{'type': 'string'}"


def test_a_token_is_asked_for_where_the_document_says_so(secured: tuple[Any, str]) -> None:
    server, token = secured
    shown = {"Authorization": f"Bearer {token}"}
    described = requests.get(f"{server.http}/openapi.json", headers=shown, timeout=60).json()
    assert described["security"] == [{"bearer": []}]
    for path, method, one in operations(described):
        url = server.http + re.sub(r"\{\w+\}", "digits", path)
        answer = requests.request(method, url, timeout=60)
        free = one.get("security") == []
        assert (answer.status_code, answer.headers.get("WWW-Authenticate")) == (
            (200, None) if free else (401, "Bearer")
        )
        assert free or "shows no token" in answer.json()["error"]


def test_what_is_free_is_little() -> None:
    open_to_all = {path for path, _, one in operations(document([("x", 1)], secured=True)) if one.get("security") == []}
    assert document([("x", 1)], secured=True)["security"] == [{"bearer": []}]
    assert document([("x", 1)], secured=False)["security"] == []
    assert open_to_all == {"/", "/style.css", "/page.js", "/icon.svg", "/ping", "/v2/health/live", "/v2/health/ready"}
