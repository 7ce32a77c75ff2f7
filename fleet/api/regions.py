"""`/api/region/…`."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import Field, Query, Router, Schema

from accounts.apikit import ErrorOut, Ok, PageOut, PageQuery, TokenAuth, page, reader_of
from fleet import selectors, services
from fleet.models import Region

from .common import READ_REFUSALS, REFUSALS

region = Router(tags=["region"])


class RegionIn(Schema):
    """A place customers can wish for."""

    code: str = Field(max_length=32, examples=["hk"], description="Letters, digits and dashes; stands in derp maps.")
    name: str = Field(max_length=80, examples=["Hong Kong"])
    name_zh: str = Field("", max_length=80, examples=["香港"])
    latitude: float = Field(0, ge=-90, le=90, description="Degrees.", examples=[22.3])
    longitude: float = Field(0, ge=-180, le=180, description="Degrees.", examples=[114.2])


class RegionOut(Schema):
    """One region."""

    id: int
    code: str
    name: str
    name_zh: str
    latitude: float
    longitude: float
    servers: int = Field(description="How many servers stand there.")


class RegionPage(PageOut):
    """A part of the list, by code."""

    items: list[RegionOut]


class RegionAdded(Ok):
    """The new region."""

    region_id: int
    code: str


@region.get("/list", response={200: RegionPage, READ_REFUSALS: ErrorOut}, auth=TokenAuth("relays"))
def list_regions(request: HttpRequest, query: Query[PageQuery]) -> dict[str, Any]:
    """Every region."""
    return page(selectors.regions(), query.page, query.per_page, _show_region)


@region.post(
    "/add",
    response={200: RegionAdded, REFUSALS: ErrorOut},
    auth=TokenAuth("staff", permissions=("fleet.add_region",)),
)
def add_region(request: HttpRequest, data: RegionIn) -> dict[str, Any]:
    """Add a region, before the first server in it."""
    added = services.add_region(**data.dict(), actor=reader_of(request))
    return {"success": True, "region_id": added.pk, "code": added.code}


def _show_region(one: Region) -> dict[str, Any]:
    names = ("id", "code", "name", "name_zh", "latitude", "longitude")
    return {name: getattr(one, name) for name in names} | {"servers": one.servers_in}  # type: ignore[attr-defined]
