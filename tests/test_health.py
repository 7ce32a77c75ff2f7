"""What load balancers and the supervisor ask."""

from __future__ import annotations

import pytest
from django.db import OperationalError, connection
from django.test import Client


@pytest.mark.both_databases
@pytest.mark.django_db
def test_healthz_says_ok_while_the_database_answers(client: Client) -> None:
    response = client.get("/healthz")
    assert (response.status_code, response.content) == (200, b"ok")


@pytest.mark.both_databases
def test_the_suite_runs_on_the_database_it_was_asked_for(request: pytest.FixtureRequest, db: None) -> None:
    assert connection.vendor == request.config.getoption("--db")


@pytest.mark.django_db
def test_healthz_says_in_words_that_the_database_is_away(client: Client) -> None:
    def broken(*_: object) -> None:
        raise OperationalError("password of the database server")

    with connection.execute_wrapper(broken):
        response = client.get("/healthz")
    assert response.status_code == 503
    assert "database does not answer" in response.text
    assert "password" not in response.text
