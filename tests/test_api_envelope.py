"""What holds for the API as a whole: one envelope, and documentation that works without any other site."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from playwright.sync_api import Page

from accounts.models import User
from derp_portal.api import api
from tests.api_client import Caller


@pytest.mark.parametrize("path", ["/api/", "/api/nothing", "/api/serial", "/api/user/me/", "/api/docs/x"])
@pytest.mark.parametrize("method", ["get", "post", "delete"])
def test_an_unknown_address_answers_the_envelope(db: None, path: str, method: str) -> None:
    answer = getattr(Client(enforce_csrf_checks=True), method)(path)
    assert (answer.status_code, answer.json()["success"]) == (404, False)
    assert answer.json()["error"]["code"] == "not_found"


def test_a_wrong_method_answers_the_envelope_and_says_which_is_right(db: None) -> None:
    answer = Client().get("/api/serial/activate")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert answer["Allow"] == "POST"


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ["This field is missing.", "This must be at most 100000.", "must be a date like 2026-12-31"]),
        ("zh-hans", ["缺少此字段。", "不能大于 100000。", "2026-12-31"]),
    ],
)
def test_what_a_schema_refuses_is_said_in_the_readers_language(root: User, language: str, words: list[str]) -> None:
    caller = Caller(root)
    caller.headers["Accept-Language"] = language
    User.objects.filter(pk=root.pk).update(language=language)
    said = [
        caller.post("serial/activate")[1],
        caller.post("serial/generate", count=10**6, duration_days=1)[1],
        caller.post("serial/generate", count=1, duration_days=1, activate_before="soon")[1],
    ]
    messages = [field["message"] for answer in said for field in answer["error"]["fields"]]
    for words_of_one in words:
        assert any(words_of_one in message for message in messages), messages
    assert not any("Value error" in message for message in messages)


def test_what_is_no_json_is_refused_in_the_envelope(db: None) -> None:
    answer = Client().post("/api/user/login", "{", "application/json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("at", ["login", "password"])
def test_a_text_with_a_zero_byte_is_refused_before_any_database_stumbles(db: None, at: str) -> None:
    said = {"login": "alice", "email": "alice@example.com", "password": "secret", at: "a\0b"}
    answer = Client().post("/api/user/login", said, "application/json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        rb'{"username": "\ud800", "password": "x"}',
        rb'{"username": "a", "password": "x", "\udfff": 1}',
        rb'{"username": "a", "password": "x", "more": [{"deep": "\u0000"}]}',
        '{"username": "a\\u0000b", "password": "x"}'.encode("utf-16"),
    ],
)
def test_a_text_that_no_database_can_keep_is_refused_however_it_was_written(db: None, body: bytes) -> None:
    answer = Client().post("/api/user/login", body, "application/json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_a_letter_written_as_a_pair_of_surrogates_is_one(db: None) -> None:
    body = rb'{"username": "\ud83d\ude00", "password": "x"}'
    answer = Client().post("/api/user/login", body, "application/json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_credentials")


def test_no_id_in_a_request_is_larger_than_a_column_holds(root: User) -> None:
    status, answer = Caller(root).get("finance/payments", user_id=10**30)
    assert (status, [field["field"] for field in answer["error"]["fields"]]) == (422, ["user_id"])
    schema = api.get_openapi_schema(path_prefix="/api/")
    said = {
        f"{path} {name}": str(field)
        for path, methods in schema["paths"].items()
        for operation in methods.values()
        for name, field in _fields_sent(operation, schema["components"]["schemas"])
        if name.endswith(("_id", "_ids")) and "integer" in str(field)
    }
    assert len(said) > 50
    assert [name for name, field in said.items() if f"'maximum': {2**63 - 1}" not in field] == []


def test_a_date_to_begin_with_is_the_beginning_of_that_day_everywhere() -> None:
    schema = api.get_openapi_schema(path_prefix="/api/")
    said = {
        path: one
        for path, methods in schema["paths"].items()
        for operation in methods.values()
        for one in operation.get("parameters", [])
        if one["name"] == "since"
    }
    assert len(said) >= 4
    assert not [path for path, one in said.items() if "end of that day" in str(one)]


def _fields_sent(operation: dict[str, Any], components: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((one["name"], one["schema"]) for one in operation.get("parameters", []) if one["in"] == "query")
    for content in operation.get("requestBody", {}).get("content", {}).values():
        for name in re.findall(r"#/components/schemas/(\w+)", str(content["schema"])):
            yield from components[name].get("properties", {}).items()


def test_words_about_zero_bytes_are_none(db: None) -> None:
    said = {"email": "alice@example.com", "password": r"what \u0000 means"}
    answer = Client().post("/api/user/login", said, "application/json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_credentials")


@pytest.mark.parametrize(
    "path", ["/api/ticket/list?q=%00", "/api/order/%00", "/tickets/new/?about=order:%00", "/r/a%00/"]
)
def test_an_address_with_a_zero_byte_cannot_be_read(db: None, path: str) -> None:
    answer = Client().get(path)
    assert answer.status_code == 400
    if path.startswith("/api/"):
        assert answer.json()["error"]["code"] == "invalid_request"
    else:
        assert "We could not read that request" in answer.content.decode()


@pytest.mark.both_databases
def test_a_cookie_with_a_zero_byte_counts_as_not_sent(db: None, settings: Any) -> None:
    sent = rf'{settings.SESSION_COOKIE_NAME}="aaaaaaaaaa\000"; ref="a\000b"; kept=1'
    answer = Client().get("/dashboard/", headers={"Cookie": sent})
    assert (answer.status_code, answer.wsgi_request.COOKIES) == (302, {"kept": "1"})
    said = {"username": "dora", "email": "dora@example.com", "password": "violet-tram-88"}
    Client().post("/api/user/register", said, "application/json", headers={"Cookie": sent})
    assert User.objects.get().signup_ref == ""


def test_every_operation_is_described_and_says_how_it_fails() -> None:
    schema = api.get_openapi_schema(path_prefix="/api/")
    operations = [operation for methods in schema["paths"].values() for operation in methods.values()]
    assert operations
    for operation in operations:
        assert operation["description"], operation["operationId"]
        assert set(operation["responses"]) - {200}, operation["operationId"]


@pytest.mark.django_db(transaction=True)
def test_the_documentation_opens_under_our_policy_with_nothing_from_elsewhere(live_server: Any, page: Page) -> None:
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{live_server.url}/api/docs")
    page.get_by_text("/api/serial/activate").wait_for()
    page.get_by_text("/api/serial/activate").click()
    page.get_by_text("Redeem a serial.").wait_for()
    assert complaints == []
    assert [url for url in asked if not re.match(rf"{live_server.url}|data:", url)] == []
