"""What every test stands on: settings of the suite's own, a Valkey per worker, a database, and the cast."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings as hypothesis_settings

from tests import parts, servers

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext
    from pytest_django.plugin import DjangoDbBlocker

    from accounts.models import User

# How long an example takes says how busy the machine is.
hypothesis_settings.register_profile("suite", hypothesis_settings.default, deadline=None)
hypothesis_settings.load_profile("suite")

pytest_plugins = ["tests.fleet.engines", "tests.fleet.hosts", "tests.portals"]

PASSWORD = "correct horse battery"
"""Every member of the cast logs in with it."""
PATIENCE = 60_000
"""Milliseconds for whatever a browser is to show: on a busy machine the usual five seconds are soon over."""

_OPERATORS_OWN = """
ADMIN_EMAIL ADMIN_PASSWORD ADMISSION_URL ALLOWED_HOSTS ALTCHA CALLBACK_DAYS CSRF_TRUSTED_ORIGINS DATABASE_URL
DEBUG EMAIL_URL FIELD_KEYS FROM_EMAIL HOST LOG_JSON METRICS_TOKEN PORT PORTAL_ID PUBLIC_URL REDIS_URL
REFUSED_CALLBACK_DAYS RELAY_IMAGE SECRET_KEY STATIC_FROM_SOURCE SUPPORT_EMAIL TEST_GATEWAY
TICKET_FIRST_LINE_HOURS TIME_ZONE TRUSTED_PROXIES
"""
SHIPPED_BY = ("serials", "fleet", "billing", "resellers", "django_celery_beat")
"""Apps whose migrations put rows into the tables."""
_CLUSTER = "SUITE_CLUSTER_URL"
_servers = pytest.StashKey[ExitStack]()
_database = pytest.StashKey[str]()
_shipped = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--db",
        choices=("sqlite", "postgresql"),
        default=os.environ.get("TEST_DATABASE", "sqlite"),
        help="which database the suite runs on; PostgreSQL is a private cluster (default: sqlite)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Lay out the environment and only then load the settings, which read it."""
    if "derp_portal.settings" in sys.modules:
        raise pytest.UsageError("DJANGO_SETTINGS_MODULE must not be set: the suite makes an environment of its own.")
    config.stash[_database] = config.getoption("--db")
    stack = config.stash[_servers] = ExitStack()
    folder = Path(tempfile.mkdtemp(prefix="portal-"))
    # A database server runs as another user and must be able to reach its part of the folder.
    folder.chmod(0o755)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    for name in _OPERATORS_OWN.split():
        os.environ.pop(name, None)
    is_worker = hasattr(config, "workerinput")
    if config.getoption("--db") == "postgresql" and parts.has("postgresql"):
        if not is_worker:
            # Workers inherit the address; each makes a database of its own there.
            os.environ[_CLUSTER] = stack.enter_context(servers.postgresql(folder / "postgresql"))
        os.environ["DATABASE_URL"] = os.environ[_CLUSTER]
    if not is_worker and config.getoption("dist", "no") != "no":
        # This process only hands out tests. Its workers inherit its environment and must not load settings from it.
        os.environ.pop("DJANGO_SETTINGS_MODULE", None)
        return
    data, runtime = folder / "data", folder / "run"
    for path in (data / "static", runtime):
        path.mkdir(parents=True)
    listen = folder / "valkey.sock"
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "derp_portal.settings",
        "DATA_DIR": str(data),
        "XDG_RUNTIME_DIR": str(runtime),
        "REDIS_URL": f"unix://{listen}",
        "TEST_SQLITE": str(folder / "test.sqlite3"),
        "ALTCHA": "0",
        "TEST_GATEWAY": "1",
        "LOG_LEVEL": "WARNING",
    }
    stack.enter_context(servers.valkey(folder / "valkey", listen))
    import django
    from django.conf import settings

    # Members of the cast are made in nearly every test; a slow hash would be most of the suite's time.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    django.setup()
    from fleet.acl.doors import store

    # A machine that stands still for a second has not lost its cache server. Tests that want none say so themselves.
    patience = {"socket_timeout": 60, "socket_connect_timeout": 60}
    settings.CACHES["default"]["OPTIONS"] = patience
    store().connection_pool.connection_kwargs |= patience


def pytest_collection_finish() -> None:
    """What is loaded by now stays: going through it for garbage again and again took an eighth of the time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    stack = config.stash.get(_servers, None)
    if stack is not None:
        stack.close()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Asked for PostgreSQL without having it: say so for each test, or fail when everything is required."""
    if config.stash[_database] == "postgresql" and not os.environ.get("DATABASE_URL"):
        if parts.requires_all():
            pytest.exit("needs postgresql: initdb and postgres are not there (apt install postgresql)", returncode=1)
        for item in items:
            item.add_marker(pytest.mark.skip(reason="needs postgresql: apt install postgresql"))


@pytest.fixture(scope="session")
def django_db_setup(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, pytestconfig: pytest.Config
) -> Iterator[None]:
    """Remember what the migrations put into the tables: example plans, the beat's schedule, the shipped alert rules."""
    from django.apps import apps
    from django.core import serializers

    models = [model for app in SHIPPED_BY for model in apps.get_app_config(app).get_models()]
    with django_db_blocker.unblock():
        rows = [row for model in models for row in model._default_manager.all()]
        pytestconfig.stash[_shipped] = serializers.serialize("json", rows)
    yield
    del pytestconfig.stash[_shipped]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Put the migrations' rows back after a test that emptied every table: the next one may count on them.

    pytest-django runs such tests last, but a worker that takes a whole group of tests may get them first.
    """
    yield
    marker = item.get_closest_marker("django_db")
    empties = (marker and marker.kwargs.get("transaction")) or "transactional_db" in getattr(item, "fixturenames", ())
    if not empties or _shipped not in item.config.stash:
        return
    from django.core import serializers
    from pytest_django.plugin import blocking_manager_key

    with item.config.stash[blocking_manager_key].unblock():
        for row in serializers.deserialize("json", item.config.stash[_shipped]):
            row.save()


@pytest.fixture(autouse=True)
def clean_slate() -> Iterator[None]:
    """Nothing that one test left in the cache or the queues reaches the next, nor the language of its last request."""
    yield
    from django.utils import translation

    translation.deactivate()
    import redis
    from django.conf import settings

    with redis.Redis.from_url(settings.REDIS_URL) as client:
        client.flushall()


@pytest.fixture
def alice(db: None) -> User:
    """A customer."""
    return make_user("alice", language="en")


@pytest.fixture
def bob(db: None) -> User:
    """Another customer, who must never see what is alice's."""
    return make_user("bob", language="zh-hans")


@pytest.fixture
def rita(db: None) -> User:
    """A reseller."""
    return make_user("rita", role="reseller")


@pytest.fixture
def root(db: None) -> User:
    """The administrator."""
    return make_user("root", role="admin", is_superuser=True)


def make_user(username: str, *, email: str = "", is_verified: bool = True, **fields: Any) -> User:
    """A user straight in the database, past sign-up: for tests whose story starts later."""
    from allauth.account.models import EmailAddress

    from accounts.models import User

    email = email or f"{username}@example.com"
    user = User.objects.create_user(username, email, PASSWORD, **{"timezone": "UTC", **fields})
    EmailAddress.objects.create(user=user, email=email, verified=is_verified, primary=True)
    return user


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    """The system's Chromium for pytest-playwright's `page`; Playwright brings none of its own."""
    from playwright.sync_api import expect

    # Playwright's loop runs in this thread, which Django takes for asynchronous code of ours.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    expect.set_options(timeout=PATIENCE)
    return {
        **browser_type_launch_args,
        "executable_path": parts.need("chromium"),
        "args": ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
    }


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args: dict[str, Any]) -> dict[str, Any]:
    """One language unless a test asks for another: the portal chooses by the browser's."""
    return {**browser_context_args, "locale": "en-US", "viewport": {"width": 1280, "height": 900}}


@pytest.fixture
def context(context: BrowserContext) -> BrowserContext:
    """Waits for a page as long as a busy machine needs, as `expect` does."""
    context.set_default_timeout(PATIENCE)
    return context
