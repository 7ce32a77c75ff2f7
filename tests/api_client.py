"""Speaking to the API as somebody, and the fleet that its tests stand on."""

from __future__ import annotations

from typing import Any

from django.test import Client

from accounts.models import ApiToken, User
from accounts.services import issue_token
from fleet import services as fleet
from fleet.models import Region, Relay, RelayHealth, Server
from serials import services as serials
from serials.codes import grouped
from serials.models import Plan, SerialBatch


class Caller:
    """Somebody with a token, by default one that has every scope it may have. Answers are `(status, body)`."""

    def __init__(self, user: User | None, *scopes: str) -> None:
        self.headers = {"Accept-Language": "en"}
        if user is not None:
            wanted = scopes or [scope.value for scope in ApiToken.Scope if scope.is_for(user)]
            self.headers["Authorization"] = "Bearer " + issue_token(user=user, name="t", scopes=wanted, actor=user)[1]

    def get(self, path: str, **query: Any) -> tuple[int, Any]:
        response = Client().get(f"/api/{path}", query, headers=self.headers)
        return response.status_code, response.json()

    def post(self, path: str, **data: Any) -> tuple[int, Any]:
        response = Client().post(f"/api/{path}", data, "application/json", headers=self.headers)
        return response.status_code, response.json()


def make_server(name: str = "one", ip: str = "127.0.0.1", region: str = "hk", **fields: Any) -> Server:
    """A server with room; no engine is asked."""
    place, _made = Region.objects.get_or_create(code=region, defaults={"name": "Hong Kong", "name_zh": "香港"})
    return fleet.add_server(actor=None, name=name, ip=ip, region=place, runtime=Server.Runtime.PROCESS, **fields)


def make_batch(count: int = 1, days: int = 30, **fields: Any) -> SerialBatch:
    """Unused serials."""
    return serials.generate(count=count, duration_days=days, actor=None, **fields)


def make_code(days: int = 30, **fields: Any) -> str:
    """An unused serial, as people type it."""
    return grouped(make_batch(1, days, **fields).serials.get().code)


def other_plan() -> Plan:
    """A plan besides the examples."""
    return Plan.objects.create(code="other", name="Other", days=10, day_value=200)


def see_running(relay: Relay) -> None:
    """Note the relay as its host and a good probe would."""
    Relay.objects.filter(pk=relay.pk).update(
        observed_state=Relay.Observed.RUNNING, observed_generation=relay.generation, trouble_code=""
    )
    RelayHealth.objects.update_or_create(relay=relay, defaults={"status": RelayHealth.Status.HEALTHY})
