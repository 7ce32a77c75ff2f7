"""What the operations on traffic take and answer."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, date, datetime, time
from enum import StrEnum
from typing import Annotated

from django.utils.translation import gettext as _
from ninja import Field, Schema
from pydantic import BeforeValidator, WithJsonSchema, model_validator

from accounts.apikit import Id, Moment, Ok, PageOut, PageQuery, parse_moment
from fleet.models import Server

from .common import ServerRef

Bytes = Annotated[int, Field(ge=0, le=2**63 - 1)]


class AmountOut(Schema):
    """Bytes from customers to relays and back; relayed bytes appear in both."""

    upload_bytes: int
    download_bytes: int
    unmeasured_seconds: int = Field(description="For so long it is unknown what passed; it is not charged.")


class QuotaOut(Schema):
    """How much the relays of one map used and may use in the present period."""

    group_id: int
    period_start: datetime
    period_end: datetime
    used_bytes: int = Field(description="Upload and download together.")
    limit_bytes: int | None = Field(description="Traffic packs included; null means no limit.")
    left_bytes: int | None
    percent: int
    over_quota_since: datetime | None = Field(description="Since when the relays stand for it.")


class UsageOut(Schema):
    """One relay: what it carried, and the quota it shares with the others of its map."""

    container_id: int
    relay: str
    user_id: int
    server_id: int | None
    today: AmountOut = Field(description="Since midnight UTC.")
    period: AmountOut = Field(description="In the present quota period, to the hour; `quota` is exact.")
    total_upload_bytes: int
    total_download_bytes: int
    quota: QuotaOut


class UsagePage(PageOut):
    """A part of the list."""

    items: list[UsageOut]


class UsageQuery(PageQuery):
    """Filters of the list; those of others are for staff."""

    container_id: Id | None = None
    relay_id: Id | None = Field(None, description="Another name for `container_id`.")
    user_id: Id | None = None
    server_id: Id | None = None


class Side(StrEnum):
    """What rates are of."""

    RELAY = "relay"
    SERVER = "server"


class RealtimeQuery(PageQuery):
    """Rates of what; servers are for staff."""

    by: Side = Side.RELAY
    container_id: Id | None = None
    server_id: Id | None = None


class RateOut(Schema):
    """One relay or server. Rates are means of the last minutes, up to `read_at`."""

    id: int
    name: str
    upload_bytes_per_second: float
    download_bytes_per_second: float
    read_at: datetime | None = Field(description="When its counters were last read; null: never.")


class RatePage(PageOut):
    """A part of the list."""

    by: Side
    items: list[RateOut]


class Per(StrEnum):
    """What sums are by."""

    RELAY = "relay"
    SERVER = "server"
    USER = "user"
    DAY = "day"


def parse_first_day(value: object) -> datetime:
    """A date is that UTC day, for the sums are of such; a moment is itself. Raises ValueError for what is neither."""
    with suppress(ValueError):
        return datetime.combine(date.fromisoformat(str(value).strip()), time.min, UTC)
    return parse_moment(value)


FirstDay = Annotated[
    datetime,
    BeforeValidator(parse_first_day),
    WithJsonSchema({"type": "string", "examples": ["2026-12-31", "2026-12-31T18:00:00+08:00"]}),
]


class StatisticsQuery(PageQuery):
    """Sums of whole UTC days; by server and by user, and those of others, are for staff."""

    by: Per = Per.DAY
    since: FirstDay | None = Field(None, description="Its UTC day is the first one; 30 days ago when left out.")
    until: Moment | None = Field(None, description="Its UTC day is the last one; now when left out.")
    user_id: Id | None = None
    server_id: Id | None = None


class StatisticsOut(AmountOut):
    """The sum of one relay, server or user (`id`, null for servers that are gone), or of one `day` (UTC)."""

    id: int | None = None
    day: str | None = None


class StatisticsPage(PageOut):
    """A part of the list: the largest first, days newest first."""

    by: Per
    items: list[StatisticsOut]


class OverQuotaOut(QuotaOut):
    """A group that stands because its quota is used up."""

    user_id: int
    username: str
    label: str
    relays: int


class OverAllowanceOut(Schema):
    """A server that has used up its provider's monthly traffic."""

    server_id: int
    name: str
    allowance_bytes: int
    allowance_used_bytes: int


class OverLimitPage(PageOut):
    """Groups over their quota, the longest first, by pages; and every server over its allowance."""

    items: list[OverQuotaOut]
    servers: list[OverAllowanceOut]


class UserLimitIn(Schema):
    """Whose limit, and what it is."""

    user_id: Id
    quota_bytes: Bytes | None = Field(None, description="For each map and period; null: no limit at all.")
    remove: bool = Field(False, description="Let the quotas of the user's plans hold again.")
    note: str = Field("", max_length=200, description="Why.")

    @model_validator(mode="after")
    def _says_what(self) -> UserLimitIn:
        if self.remove is ("quota_bytes" in self.model_fields_set):
            raise ValueError(_("send either quota_bytes or remove"))
        return self


class UserLimitOut(Ok):
    """The user's limit from now on."""

    user_id: int
    is_limited: bool = Field(description="Whether a limit of the user's own stands in place of those of the plans.")
    quota_bytes: int | None


class PackIn(Schema):
    """More traffic for the present period of one map."""

    group_id: Id | None = None
    container_id: Id | None = Field(None, description="Any relay of the group, instead of `group_id`.")
    bytes: Annotated[int, Field(ge=1, le=2**62)]
    key: str = Field(min_length=1, max_length=120, description="Of your own; sent twice it adds its pack once.")
    note: str = Field("", max_length=200)

    @model_validator(mode="after")
    def _says_whose(self) -> PackIn:
        if (self.group_id is None) == (self.container_id is None):
            raise ValueError(_("send either group_id or container_id"))
        return self


class PackOut(Ok):
    """The pack, and the quota with it."""

    pack_id: int
    quota: QuotaOut


class ServerTrafficOut(Schema):
    """What a server's relays carry, and what its provider allows."""

    server_id: int
    name: str
    today: AmountOut
    total_upload_bytes: int
    total_download_bytes: int
    allowance_bytes: int | None = Field(description="Each month; null means no limit.")
    allowance_used_bytes: int = Field(description="As the provider counts: `billed_direction`.")
    allowance_reset_day: int
    billed_direction: Server.BilledDirection
    is_over: bool


class ServerTrafficPage(PageOut):
    """A part of the list, by name."""

    items: list[ServerTrafficOut]


class ServerTrafficQuery(PageQuery):
    """One server, or all."""

    server_id: Id | None = None


class ServerLimitIn(ServerRef):
    """A server's monthly allowance; what is left out stays. `allowance_bytes` null: no limit."""

    allowance_bytes: Bytes | None = None
    allowance_reset_day: Annotated[int, Field(ge=1, le=31)] | None = None
    billed_direction: Server.BilledDirection | None = None


class ServerTrafficAnswer(Ok):
    """The server as it is now."""

    server: ServerTrafficOut
