"""What the logs must not tell."""

from __future__ import annotations

import pytest

from derp_portal.logs import hide_secrets, one_line_each


@pytest.mark.parametrize(
    ("request_line", "logged"),
    [
        ("POST /derp/admit/s3cret-_x", "POST /derp/admit/***"),
        ("GET /derpmap/t0ken.json", "GET /derpmap/***"),
        ("POST /let-in/MQ:abc:def/", "POST /let-in/***/"),
        ("POST /accounts/confirm-email/MQ:abc:def/", "POST /accounts/confirm-email/***/"),
        ("GET /accounts/password/reset/key/1-abc-def/", "GET /accounts/password/reset/key/***/"),
        ("GET /redeem/?code=F9XF-0000", "GET /redeem/?***"),
        ("GET /api/serial/status?code=F9XF", "GET /api/serial/status?***"),
        ("GET /dashboard/", "GET /dashboard/"),
    ],
)
def test_an_address_that_is_a_key_is_logged_without_it(request_line: str, logged: str) -> None:
    assert hide_secrets(None, "info", {"request": request_line})["request"] == logged


def test_requests_are_logged_once_and_healthy_health_checks_never() -> None:
    import structlog

    for event in ({"event": "request_started"}, {"event": "x", "request": "GET /healthz", "code": 200}):
        with pytest.raises(structlog.DropEvent):
            one_line_each(None, "info", event)
    kept = {"event": "request_finished", "request": "GET /healthz", "code": 503}
    assert one_line_each(None, "info", kept) == kept
