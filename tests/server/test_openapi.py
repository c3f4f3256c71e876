"""What the OpenAPI page says is so: requests drawn from it get no 5xx and no answer outside of it."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks
from served import NAME

from ellm.server.openapi import document
from ellm.server.operations import OPERATIONS

CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]


def page():
    """The page, with a model that there is, short answers and few items: else what is drawn is refused, or many MB."""
    found = shortened(json.loads(document(OPERATIONS)))
    for record in found["components"]["schemas"].values():
        fields = record.get("properties", {})
        if "stream" in fields:
            fields["max_tokens"] = {"type": "integer", "minimum": 1, "maximum": 4}
        if "model" in fields and "tokens" not in record.get("required", ()):
            fields["model"] = {"enum": [NAME, "other"]}
    return found


def shortened(value):
    if isinstance(value, dict):
        most = {"maxItems": 3, "maxLength": 20}
        return {key: min(item, most[key]) if key in most else shortened(item) for key, item in value.items()}
    return [*map(shortened, value)] if isinstance(value, list) else value


SCHEMA = schemathesis.openapi.from_dict(page())


@pytest.fixture(scope="module")
def url(served):
    return served.url


@SCHEMA.parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_request_breaks_the_server_or_its_word(case, url):
    case.call_and_validate(base_url=url, checks=CHECKS, timeout=30)
