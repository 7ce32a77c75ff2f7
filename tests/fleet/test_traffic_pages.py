"""What customers and operators see of traffic: sums, quotas, the history, the file, and that nothing slows it down."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from fleet.charts import HEIGHT, round_top, traffic_chart
from fleet.models import Meter, QuotaPeriod, Relay, RelayGroup, Server, Traffic, TrafficPack, UserLimit
from fleet.services import create_group, quota_keeping
from fleet.services.groups import OVER_QUOTA, GroupTerms
from fleet.services.quota_keeping import judge_group
from fleet.services.quotas import present_periods
from fleet.traffic import (
    NOTHING,
    Amount,
    Bucket,
    groups_with_traffic,
    history,
    in_period_of,
    rates_of_relays,
    rates_of_servers,
    statistics,
    today_of,
    traffic_of_groups,
)
from serials import services
from serials.models import Lease, Plan
from serials.services import How
from tests.fleet.booking import GB, booked
from tests.serials.shop import make_plan, make_server, new_code_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accounts.models import User

NOON = datetime(2027, 1, 15, 12, 30, tzinfo=UTC)
HOUR, DAY, READING = Traffic.Span.HOUR, Traffic.Span.DAY, Traffic.Span.READING


@pytest.fixture(autouse=True)
def noon() -> Iterator[time_machine.Traveller]:
    """A plain winter day."""
    with time_machine.travel(NOON, tick=False) as clock:
        yield clock


@pytest.fixture
def plan(db: None) -> Plan:
    """Thirty days with a hundred gigabytes."""
    return make_plan(30, quota_bytes=100 * GB)


@pytest.fixture
def lease(alice: User, plan: Plan) -> Lease:
    """alice's."""
    make_server()
    return services.activate(user=alice, code=new_code_of(plan))[1]


@pytest.fixture
def relay(lease: Lease) -> Relay:
    """Its relay."""
    return lease.relay_group.relays.get()


@pytest.fixture
def alices(client: Client, alice: User) -> Client:
    """alice's browser."""
    client.force_login(alice)
    return client


def group_of(lease: Lease) -> RelayGroup:
    """As it is now."""
    return RelayGroup.objects.get(pk=lease.relay_group_id)


def use(lease: Lease, used: int) -> RelayGroup:
    """The group has used so much, and is judged for it."""
    period = present_periods([group_of(lease)])[lease.relay_group_id]
    QuotaPeriod.objects.filter(pk=period.pk).update(used_bytes=used)
    judge_group(lease.relay_group_id)
    return group_of(lease)


def text_of(browser: Client, address: str = "/traffic/") -> str:
    response = browser.get(address)
    assert response.status_code == 200
    return str(response.content.decode())


# --- selectors ------------------------------------------------------------------------------------


def test_today_is_utcs_and_yesterday_is_not_in_it(relay: Relay) -> None:
    booked(relay, NOON.replace(hour=0, minute=0), 5)
    booked(relay, NOON.replace(hour=0, minute=0) - timedelta(minutes=1), 7)
    assert today_of([relay.pk]) == {relay.pk: Amount(5, 5)}


def test_the_period_of_a_relay_begins_with_the_hour_in_which_its_groups_does(
    relay: Relay, lease: Lease, noon: time_machine.Traveller
) -> None:
    """The term began at half past twelve: the day's morning is not in it, its afternoon and all later days are."""
    booked(relay, NOON - timedelta(hours=3), 1000)
    booked(relay, NOON + timedelta(minutes=1), 1)
    booked(relay, NOON + timedelta(hours=4), 20)
    booked(relay, NOON + timedelta(days=1), 300)
    noon.shift(timedelta(days=2))
    periods = present_periods([group_of(lease)]).values()
    assert in_period_of([relay.pk], periods) == {relay.pk: Amount(321, 321)}


def test_a_period_that_begins_at_midnight_counts_its_first_day_once(relay: Relay, lease: Lease) -> None:
    midnight = NOON.replace(hour=0, minute=0)
    RelayGroup.objects.update(period_start=midnight)
    group = RelayGroup.objects.get()
    booked(relay, midnight - timedelta(minutes=1), 1000)
    booked(relay, midnight + timedelta(hours=1), 20)
    periods = present_periods([group]).values()
    assert in_period_of([relay.pk], periods) == {relay.pk: Amount(20, 20)}


def test_a_history_has_no_holes_and_shows_a_long_gap_in_each_day_it_covers(relay: Relay, alice: User) -> None:
    booked(relay, NOON, 3, 4)
    booked(relay, NOON - timedelta(days=5), 1, 1, unmeasured=2 * 86400 + 60)
    days = history(alice, span=DAY, count=30)
    assert len(days) == 30
    assert days[-1] == Bucket(NOON.replace(hour=0, minute=0), Amount(3, 4), is_present=True)
    assert [day.amount.unmeasured_seconds for day in days[-6:]] == [86400, 86400, 60, 0, 0, 0]
    assert days[0].amount == NOTHING
    assert sum(day.amount.total for day in history(alice, span=HOUR, count=48)) == 7


def test_a_history_is_ones_own(relay: Relay, bob: User) -> None:
    booked(relay, NOON, 5)
    assert all(day.amount == NOTHING for day in history(bob, span=DAY, count=30))
    assert history(None, span=DAY, count=1)[0].amount == Amount(5, 5)


def test_statistics_sum_whole_days_by_relay_server_user_and_day(relay: Relay, alice: User) -> None:
    booked(relay, NOON, 5)
    booked(relay, NOON - timedelta(days=1), 10, 20)
    booked(relay, NOON - timedelta(days=9), 1000)
    since = NOON - timedelta(days=1)
    for by, key in (("relay", relay.pk), ("server", relay.server_id), ("user", alice.pk)):
        assert list(statistics(by, since=since, until=NOON)) == [
            {"key": key, "uploaded": 15, "downloaded": 25, "unmeasured": 0}
        ]
    assert [(row["key"].day, row["downloaded"]) for row in statistics("day", since=since, until=NOON)] == [
        (15, 5),
        (14, 20),
    ]


def test_a_rate_is_that_of_the_last_minutes_up_to_the_last_reading(relay: Relay) -> None:
    assert rates_of_relays([relay.pk]) == {}, "never read"
    Meter.objects.create(relay=relay, generation=1, read_at=NOON)
    assert rates_of_relays([relay.pk])[relay.pk].upload == 0
    for minute in range(1, 6):
        booked(relay, NOON - timedelta(minutes=minute), 60 * 1000, 60 * 3000, spans=(READING,))
    booked(relay, NOON - timedelta(hours=1), 10**12, spans=(READING,))
    rate = rates_of_relays([relay.pk])[relay.pk]
    assert (rate.upload, rate.download, rate.read_at) == (1000, 3000, NOON)
    assert relay.server_id is not None
    assert rates_of_servers([relay.server_id])[relay.server_id] == rate


def test_relays_released_in_this_period_are_still_shown_and_older_ones_are_not(relay: Relay, alice: User) -> None:
    Relay.objects.filter(pk=relay.pk).update(released_at=NOON + timedelta(hours=1))
    [shown] = traffic_of_groups(groups_with_traffic(alice))
    assert [one.relay for one in shown.relays] == [relay]
    Relay.objects.filter(pk=relay.pk).update(released_at=NOON - timedelta(hours=1))
    assert traffic_of_groups(groups_with_traffic(alice))[0].relays == []


# --- the chart ------------------------------------------------------------------------------------


def test_a_chart_has_a_round_top_and_no_bar_leaves_it() -> None:
    assert [round_top(count) for count in (0, GB // 10, GB // 10 + 1, 3 * GB, 51 * GB)] == [
        GB // 10,
        GB // 10,
        GB // 5,
        5 * GB,
        100 * GB,
    ]
    chart = traffic_chart([Bucket(NOON, Amount(3 * GB, 2 * GB)), Bucket(NOON, NOTHING)])
    first, second = chart.bars
    assert (chart.top, chart.width) == (5 * GB, 20)
    assert (first.upload_height, first.download_height, first.download_y) == (60, 40, 0)
    assert (first.upload_y + first.upload_height, second.upload_height) == (HEIGHT, 0)


# --- the customer's page --------------------------------------------------------------------------


def test_the_page_says_what_is_used_left_and_counted(alices: Client, lease: Lease, relay: Relay) -> None:
    booked(relay, NOON, 2 * GB, 3 * GB)
    use(lease, 42 * GB)
    page = text_of(alices)
    for words in (
        "42 GB of 100 GB · 42 %",
        "58 GB left · counted from 2027-01-15 12:30 to 2027-02-14 12:30",
        "within the quota",
        "appears in both; both count towards the quota",
        relay.code,
    ):
        assert words in page, words
    assert '<progress aria-label="Traffic" max="100" value="42">' in page
    assert page.count('<rect class="up"') == 31, "thirty days and the legend"
    assert "<details>" in page
    assert " style=" not in page


@pytest.mark.parametrize(
    ("percent", "tone", "words"),
    [(79, "pill-ok", "within the quota"), (80, "pill-warn", "80 % used"), (95, "pill-bad", "95 % used")],
)
def test_the_quota_is_said_in_a_word_with_an_icon(
    alices: Client, lease: Lease, percent: int, tone: str, words: str
) -> None:
    use(lease, percent * GB)
    pill = text_of(alices).partition(tone)[2].partition("</span>")[0]
    assert words in pill
    assert "<svg" in pill


def test_over_the_quota_the_page_says_why_it_stands_and_what_starts_it(alices: Client, lease: Lease) -> None:
    group = use(lease, 100 * GB)
    assert group.wanted_reason == OVER_QUOTA
    page = text_of(alices)
    assert "Stopped: quota used up" in page
    assert "a traffic pack for this period" in page
    assert "Renewing early does not reset a running quota" in page
    assert "the next period, on" not in page, "the lease ends with this one"
    services.activate(user=lease.user, code=new_code_of(make_plan(30, quota_bytes=100 * GB)))
    assert "the next period, on 2027-02-14 12:30" in text_of(alices)
    dashboard = text_of(alices, "/dashboard/")
    assert "Stopped: quota used up" in dashboard
    assert "every 15s" in dashboard, "nothing is under way"


def test_the_dashboard_and_the_lease_show_the_quota(alices: Client, lease: Lease) -> None:
    use(lease, 10 * GB)
    for address in ("/dashboard/", "/dashboard/live/?have=" + f"{lease.pk}-old", reverse("lease", args=[lease.pk])):
        assert "10 GB of 100 GB · 10 %" in text_of(alices, address), address


def test_without_a_quota_there_is_no_bar_and_no_threat(alices: Client, alice: User) -> None:
    make_server()
    services.activate(user=alice, code=new_code_of(make_plan(7, quota_bytes=None)))
    page = text_of(alices)
    assert "0 GB used, no limit" in page
    assert "<progress" not in page


def test_a_renewal_says_before_and_after_that_the_running_quota_stays(alices: Client, lease: Lease, plan: Plan) -> None:
    assert "Renewing early does not reset a running quota" in text_of(alices, reverse("lease", args=[lease.pk]))
    code = new_code_of(plan)
    before = alices.post("/redeem/", {"code": code}).content.decode()
    assert "Renewing early does not reset a running quota" in before
    answer = {"code": code, "confirm": "1", "choice": f"queue:{lease.pk}", "name": ""}
    after = alices.post("/redeem/", answer, follow=True).content.decode()
    assert "was not reset" in after


def test_the_figures_are_asked_for_again_every_fifteen_seconds(alices: Client, lease: Lease, client: Client) -> None:
    part = text_of(alices, "/traffic/live/")
    assert 'hx-trigger="every 15s"' in part
    assert "<html" not in part
    alices.logout()
    answer = alices.get("/traffic/live/")
    assert (answer.status_code, answer.headers["HX-Refresh"]) == (401, "true")


@pytest.mark.parametrize("chosen", ["48h", "30d", "90d", "nonsense"])
def test_each_range_opens(alices: Client, relay: Relay, chosen: str) -> None:
    booked(relay, NOON, GB, unmeasured=90)
    page = text_of(alices, f"/traffic/?range={chosen}")
    assert "2 minutes" in page
    assert page.count('<rect class="up"') == {"48h": 49, "90d": 91}.get(chosen, 31)


def test_the_file_has_every_day_exact_to_the_byte_and_nobody_elses(
    alices: Client, relay: Relay, bob: User, client: Client
) -> None:
    booked(relay, NOON, 123456789, 5, unmeasured=61)
    booked(relay, NOON - timedelta(days=400), 1)
    rows = list(csv.DictReader(io.StringIO(alices.get("/traffic/daily.csv").getvalue().decode())))
    assert [(row["day_utc"], row["relay"], row["upload_bytes"], row["unmeasured_seconds"]) for row in rows] == [
        ("2027-01-15", relay.code, "123456789", "61"),
        ("2025-12-11", relay.code, "1", "0"),
    ]
    bobs = Client()
    bobs.force_login(bob)
    assert relay.code not in bobs.get("/traffic/daily.csv").getvalue().decode()
    assert relay.code not in text_of(bobs)


def test_the_page_asks_the_same_number_of_questions_however_much_there_is(alices: Client, alice: User) -> None:
    plan = make_plan(30, quota_bytes=GB, relay_count=2)
    make_server("a")
    make_server("b")

    def grow(count: int) -> None:
        for number in range(count):
            _serial, lease = services.activate(
                user=alice, code=new_code_of(plan), how=How.NEW, lease_name=f"tailnet {number}"
            )
            for relay in lease.relay_group.relays.all():
                for day in range(count):
                    booked(relay, NOON - timedelta(days=day), GB)
            use(lease, GB * 85 // 100)

    def questions(address: str) -> int:
        alices.get(address)
        with CaptureQueriesContext(connection) as asked:
            alices.get(address)
        assert not any("'reading'" in query["sql"] for query in asked), "single readings are for rates"
        return len(asked)

    addresses = ["/traffic/", "/traffic/live/", "/dashboard/"]
    grow(1)
    few = [questions(address) for address in addresses]
    grow(5)
    assert [questions(address) for address in addresses] == few


# --- the operator's pages -------------------------------------------------------------------------


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    """root's browser."""
    client.force_login(root)
    return client


def test_a_pack_added_in_the_admin_starts_the_group_again_and_counts_once(
    roots: Client, root: User, lease: Lease
) -> None:
    group = use(lease, 100 * GB)
    address = reverse("admin:fleet_relaygroup_add_traffic_pack", args=[group.pk])
    page = roots.get(address)
    key = page.context["question"].form.initial["key"]
    answer = {"gigabytes": "20.5", "note": "goodwill", "key": key}
    for _twice in range(2):
        assert roots.post(address, answer).status_code == 302
    [pack] = TrafficPack.objects.all()
    assert (pack.extra_bytes, pack.note, pack.actor) == (20_500_000_000, "goodwill", root)
    assert (RelayGroup.objects.get().wanted, RelayGroup.objects.get().wanted_reason) == ("running", "")
    assert "100 GB / 120.5 GB" in text_of(roots, reverse("admin:fleet_relaygroup_change", args=[group.pk]))


def test_a_pack_where_nothing_is_limited_is_refused_in_words(roots: Client, alice: User) -> None:
    group = create_group(owner=alice, label="free", run_until=NOON + timedelta(days=1), terms=GroupTerms(), actor=alice)
    address = reverse("admin:fleet_relaygroup_add_traffic_pack", args=[group.pk])
    page = roots.post(address, {"gigabytes": "1", "key": "k"})
    assert "Its traffic is not limited." in page.content.decode()


@pytest.mark.django_db(transaction=True)
def test_groups_are_judged_after_the_admins_own_transaction(
    roots: Client, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    monkeypatch.setattr(quota_keeping, "judge_group", lambda _id: held.append(connection.in_atomic_block))
    roots.post(reverse("admin:fleet_userlimit_add"), {"owner": lease.user_id, "quota_bytes": GB, "note": "abuse"})
    roots.post(reverse("admin:fleet_userlimit_delete", args=[UserLimit.objects.get().pk]), {"post": "yes"})
    assert held == [False, False]


@pytest.mark.django_db(transaction=True)
def test_a_users_limit_set_in_the_admin_stops_at_once_and_its_removal_starts_again(roots: Client, lease: Lease) -> None:
    use(lease, 10 * GB)
    add = reverse("admin:fleet_userlimit_add")
    assert roots.post(add, {"owner": lease.user_id, "quota_bytes": 5 * GB, "note": "abuse"}).status_code == 302
    assert RelayGroup.objects.get().wanted_reason == OVER_QUOTA
    [limit] = UserLimit.objects.all()
    change = reverse("admin:fleet_userlimit_change", args=[limit.pk])
    assert roots.post(change, {"quota_bytes": 50 * GB, "note": "better"}).status_code == 302
    assert RelayGroup.objects.get().wanted_reason == ""
    roots.post(change, {"quota_bytes": GB, "note": "worse"})
    assert RelayGroup.objects.get().wanted_reason == OVER_QUOTA
    assert roots.post(reverse("admin:fleet_userlimit_delete", args=[limit.pk]), {"post": "yes"}).status_code == 302
    assert RelayGroup.objects.get().wanted_reason == ""


def test_lists_of_traffic_are_never_counted_whole(roots: Client, relay: Relay) -> None:
    booked(relay, NOON, 1)
    with CaptureQueriesContext(connection) as asked:
        assert roots.get(reverse("admin:fleet_traffic_changelist")).status_code == 200
    counts = [query["sql"] for query in asked if "COUNT(" in query["sql"] and '"traffic"' in query["sql"]]
    assert counts
    assert all("LIMIT 10000" in sql for sql in counts)


def test_servers_without_traffic_are_no_trouble(db: None) -> None:
    server: Server = make_server()
    assert rates_of_servers([server.pk]) == {}
