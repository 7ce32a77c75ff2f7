"""Settings, all from the environment; without any of it the embedded default runs on this machine alone."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import django_stubs_ext
import environ
from cryptography.fernet import Fernet
from csp.constants import NONE, SELF
from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from derp_portal.lib.env import kept_secret, runtime_dir

env = environ.Env()

# Lets classes such as ModelForm be named with their model, as the type checker wants it.
django_stubs_ext.monkeypatch()

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(env.str("DATA_DIR", default=str(BASE_DIR / "var"))).resolve()
DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
RUNTIME_DIR = runtime_dir(DATA_DIR)
PORT = env.int("PORT", default=8000)
HOST = env.str("HOST", default="0.0.0.0")  # noqa: S104 - containers on this machine must reach the door
PUBLIC_URL = env.str("PUBLIC_URL", default=f"http://127.0.0.1:{PORT}").rstrip("/")
DEBUG = env.bool("DEBUG", default=False)

# Embedded means: no database and no broker of the operator's own was named.
EMBEDDED = not os.environ.get("DATABASE_URL") and not os.environ.get("REDIS_URL")

SECRET_KEY = os.environ.get("SECRET_KEY") or kept_secret(DATA_DIR / "secret_key", lambda: secrets.token_urlsafe(50))
# Keys for secrets at rest, newest first; the older ones still decrypt (see docs/operator.md, "Rotating keys").
FIELD_KEYS = env.list("FIELD_KEYS", default=[]) or [
    kept_secret(DATA_DIR / "field_key", lambda: Fernet.generate_key().decode())
]

_public = urlsplit(PUBLIC_URL)
ALLOWED_HOSTS = list(
    dict.fromkeys(
        [
            _public.hostname or "127.0.0.1",
            "localhost",
            "127.0.0.1",
            "[::1]",
            "host.docker.internal",
            *env.list("ALLOWED_HOSTS", default=[]),
        ]
    )
)
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL, *env.list("CSRF_TRUSTED_ORIGINS", default=[])]
SECURE = _public.scheme == "https"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE
SESSION_COOKIE_NAME = f"derp_portal_{PORT}"  # Two instances on one host must not log each other out.
CSRF_COOKIE_NAME = f"derp_portal_csrf_{PORT}"
SECURE_HSTS_SECONDS = 31_536_000 if SECURE else 0
# Behind a proxy that sets X-Forwarded-*; how many proxies of ours a request passes (0 = none, headers ignored).
TRUSTED_PROXIES = env.int("TRUSTED_PROXIES", default=0)
if TRUSTED_PROXIES:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "allauth",
    "allauth.account",
    "csp",
    "crispy_forms",
    "crispy_bootstrap5",
    "django_include_bootstrap",
    "django_htmx",
    "django_tables2",
    "django_filters",
    "django_altcha",
    "django_celery_beat",
    "django_structlog",
    "ninja",
    "django_linear_migrations",
    "accounts",
    "fleet",
    "serials",
    "billing",
    "resellers",
    "derp_portal",
]
FIRST_PARTY_APPS = ["accounts", "fleet", "serials", "billing", "resellers"]

MIDDLEWARE = [
    "derp_portal.middleware.machine_door",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "derp_portal.middleware.client_address",
    "csp.middleware.CSPMiddleware",
    "derp_portal.middleware.no_zero_bytes_in_cookies",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "derp_portal.middleware.no_zero_bytes",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "accounts.middleware.own_language_and_zone",
    "accounts.middleware.device_cookie",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
    "derp_portal.middleware.errors_for_people",
]

ROOT_URLCONF = "derp_portal.urls"
WSGI_APPLICATION = "derp_portal.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "csp.context_processors.nonce",
                "derp_portal.context.portal",
            ],
        },
    },
]

# --- database -------------------------------------------------------------------------------------
DATABASES = {"default": env.db("DATABASE_URL", default=f"sqlite:///{DATA_DIR / 'portal.sqlite3'}")}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # One writer at a time, announced at the start of a transaction: what row locks do on PostgreSQL.
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 30,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
    # A test database in memory would be private to one connection, and races could not be seen.
    DATABASES["default"]["TEST"] = {"NAME": os.environ.get("TEST_SQLITE", str(RUNTIME_DIR / "test.sqlite3"))}
else:
    DATABASES["default"].setdefault("CONN_MAX_AGE", 60)
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# SQLite leaves the further columns of a covering index out; PostgreSQL, which large portals run on, keeps them.
SILENCED_SYSTEM_CHECKS = ["models.W040"]

# --- broker and cache -----------------------------------------------------------------------------
VALKEY_SOCKET = RUNTIME_DIR / "valkey.sock"
REDIS_URL = env.str("REDIS_URL", default=f"unix://{VALKEY_SOCKET}")
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "portal",
        # A broker that hangs must not hang every page with it.
        "OPTIONS": {"socket_timeout": 2, "socket_connect_timeout": 2},
    }
}
CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 600, "global_keyprefix": "celery-"}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# Publishing happens after commit: try briefly, then let the sweep find the work.
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.2}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_DEFAULT_QUEUE = "fleet"
CELERY_TASK_ROUTES = {
    # Hosts that do not answer are looked at by workers of their own, so that waiting for them delays no other host.
    "fleet.tasks.examine_suspect": {"queue": "suspects"},
    # Many hosts are asked for their figures, and many rows are deleted: no relay waits for that.
    "fleet.tasks.measure_servers": {"queue": "metering"},
    "fleet.tasks.compare_counters_of": {"queue": "metering"},
    "fleet.tasks.forget_readings": {"queue": "metering"},
    # Whoever is told may be slow to listen.
    "fleet.tasks.deliver_alerts": {"queue": "notify"},
    "fleet.tasks.*": {"queue": "fleet"},
    "accounts.tasks.*": {"queue": "notify"},
    "serials.tasks.*": {"queue": "money"},
    "billing.tasks.*": {"queue": "money"},
    "resellers.tasks.*": {"queue": "money"},
}
CELERY_QUEUES = ("fleet", "metering", "notify", "money")
CELERY_SLOW_QUEUES = ("suspects",)
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_TIMEZONE = "UTC"

# --- people ---------------------------------------------------------------------------------------
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "dashboard"
ACCOUNT_ADAPTER = "accounts.adapter.AccountAdapter"
ACCOUNT_FORMS = {"signup": "accounts.forms.SignupForm"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "email*", "password1*", "password2*"]
ACCOUNT_LOGIN_METHODS = {"email", "username"}
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_LOGIN_ON_EMAIL_CONFIRMATION = True
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_LOGOUT_ON_PASSWORD_CHANGE = False
# The API has to answer a sign-up with the new id, so hiding that an address is taken would only mislead people;
# the rate limits bound what can be learnt from it (docs/adr/0005-taken-addresses.md).
ACCOUNT_PREVENT_ENUMERATION = False
ACCOUNT_USERNAME_BLACKLIST = ["admin", "administrator", "root", "system", "support", "staff"]
ACCOUNT_USERNAME_MIN_LENGTH = 3
ACCOUNT_DEFAULT_HTTP_PROTOCOL = _public.scheme
ALTCHA_HMAC_KEY = SECRET_KEY
ALTCHA_VERIFICATION_ENABLED = env.bool("ALTCHA", default=True)
ALTCHA_INCLUDE_TRANSLATIONS = True

EMAIL_URL = env.str("EMAIL_URL", default="")
MAIL_DIR: Path | None = None
if EMAIL_URL:
    vars().update(env.email_url("EMAIL_URL"))
    EMAIL_TIMEOUT = 20
else:
    MAIL_DIR = DATA_DIR / "mail"
    EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    EMAIL_FILE_PATH = str(MAIL_DIR)
DEFAULT_FROM_EMAIL = env.str("FROM_EMAIL", default=f"DERP Portal <noreply@{_public.hostname}>")
SERVER_EMAIL = DEFAULT_FROM_EMAIL

# --- language, time -------------------------------------------------------------------------------
LANGUAGE_CODE = "en"
LANGUAGES = [("en", _("English")), ("zh-hans", _("Simplified Chinese"))]
LOCALE_PATHS = [BASE_DIR / "locale", BASE_DIR / "locale" / "packages"]
USE_I18N = USE_TZ = True
# The operator's zone: what a chosen date or "this month" means. People see their own.
TIME_ZONE = env.str("TIME_ZONE", default="Asia/Shanghai")

# --- static ---------------------------------------------------------------------------------------
STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = env.bool("STATIC_FROM_SOURCE", default=EMBEDDED)
WHITENOISE_MAX_AGE = 3600

CRISPY_ALLOWED_TEMPLATE_PACKS = CRISPY_TEMPLATE_PACK = "bootstrap5"
DJANGO_TABLES2_TEMPLATE = "django_tables2/portal.html"
DJANGO_TABLES2_TABLE_ATTRS = {"class": "table"}

# --- content security policy ----------------------------------------------------------------------
_csp = {
    "default-src": [NONE],
    "script-src": [SELF],
    "style-src": [SELF],
    "img-src": [SELF, "data:"],
    "font-src": [SELF],
    "connect-src": [SELF],
    "manifest-src": [SELF],
    "worker-src": [SELF, "blob:"],
    "form-action": [SELF],
    "base-uri": [NONE],
    "frame-ancestors": [NONE],
}
CONTENT_SECURITY_POLICY = {"DIRECTIVES": _csp}
# The admin theme evaluates Alpine expressions and sets inline styles; only /admin gets this looser policy.
ADMIN_CSP = _csp | {"script-src": [SELF, "'unsafe-eval'", "'unsafe-inline'"], "style-src": [SELF, "'unsafe-inline'"]}

# --- fleet ----------------------------------------------------------------------------------------
# Containers that carry this id are ours; two portals may share a host.
PORTAL_ID = env.str("PORTAL_ID", default="") or kept_secret(DATA_DIR / "portal_id", lambda: secrets.token_hex(6))
# Where relays ask whether a client may connect. Containers cannot use this machine's loopback address.
ADMISSION_URL = env.str("ADMISSION_URL", default=PUBLIC_URL).rstrip("/")
RELAY_IMAGE = env.str("RELAY_IMAGE", default="")
IMAGES_DIR = DATA_DIR / "images"
# user:password for relay images that name a registry.
_registry_login = env.str("REGISTRY_LOGIN", default="").partition(":")
REGISTRY_AUTH = (_registry_login[0], _registry_login[2]) if _registry_login[0] else None
# For so long a new customer's doors let in, and list, whoever comes; then they are closed.
ACL_LEARN_HOURS = env.int("ACL_LEARN_HOURS", default=24)
# For so long it is kept who knocked at which door.
ACL_LOG_DAYS = env.int("ACL_LOG_DAYS", default=90)
# For so long it is kept what gateways called about, and what nobody believed.
CALLBACK_DAYS = env.int("CALLBACK_DAYS", default=400)
REFUSED_CALLBACK_DAYS = env.int("REFUSED_CALLBACK_DAYS", default=30)
# Where customers may have us speak to although it is not on the public Internet, such as a Headscale in our network.
OUTBOUND_ALLOWED_NETWORKS = env.list("OUTBOUND_ALLOWED_NETWORKS", default=[])
# A host that has been silent for so long is lost, and its relays move.
FAILOVER_GRACE_SECONDS = env.int("FAILOVER_GRACE_SECONDS", default=60)
# Ports for relays on this machine in the embedded default; two instances side by side need two ranges.
LOCAL_PORTS = (23000 + PORT % 100 * 100, 23000 + PORT % 100 * 100 + 99)
RELAYD_SOCKET = RUNTIME_DIR / "relayd.sock"
RELAYD_STATE = DATA_DIR / "relays"

# --- money ----------------------------------------------------------------------------------------
# Whether orders may be paid with the built-in test gateway, which takes no money.
TEST_GATEWAY = env.bool("TEST_GATEWAY", default=EMBEDDED)
# A TrueType font with Chinese glyphs, to be embedded in receipts and reports. Without it readers' own fonts serve.
PDF_FONT = env.str("PDF_FONT", default="")

# --- tickets --------------------------------------------------------------------------------------
# Who is told of tickets for the operator; without any, every administrator who may look at them.
SUPPORT_EMAIL = [address.strip() for address in env.list("SUPPORT_EMAIL", default=[]) if address.strip()]
# A reseller who gets a ticket first has so long to answer; then it goes to the operator by itself.
TICKET_FIRST_LINE_HOURS = env.int("TICKET_FIRST_LINE_HOURS", default=24)

# --- being watched --------------------------------------------------------------------------------
# What Prometheus sends as a bearer token to /metrics. Without it only this machine and operators get them.
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")

# --- admin theme ----------------------------------------------------------------------------------


def _menu(title: Promise, icon: str, app: str, model: str) -> dict[str, Any]:
    """A line of the admin's menu, for staff who may look at the rows."""
    seen_by = (f"{app}.view_{model}", f"{app}.change_{model}")
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{app}_{model}_changelist"),
        "permission": lambda request: any(map(request.user.has_perm, seen_by)),
    }


UNFOLD = {
    "SITE_TITLE": _("DERP Portal"),
    "SITE_HEADER": _("DERP Portal"),
    "SITE_SYMBOL": "hub",
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("portal/favicon.svg")},
    ],
    "SITE_URL": reverse_lazy("dashboard"),
    "SHOW_LANGUAGES": True,
    "DASHBOARD_CALLBACK": "derp_portal.dashboard.operator_dashboard",
    "COLORS": {
        "primary": {
            "50": "#f0fdfa",
            "100": "#ccfbf1",
            "200": "#99f6e4",
            "300": "#5eead4",
            "400": "#2dd4bf",
            "500": "#14b8a6",
            "600": "#0f766e",
            "700": "#0f766e",
            "800": "#115e59",
            "900": "#134e4a",
            "950": "#042f2e",
        }
    },
    "SIDEBAR": {
        "show_search": True,
        "show_all_applications": False,
        "navigation": [
            {
                "items": [{"title": _("Overview"), "icon": "space_dashboard", "link": reverse_lazy("admin:index")}],
            },
            {
                "title": _("Customers"),
                "items": [
                    _menu(_("Users"), "group", "accounts", "user"),
                    _menu(_("Tickets"), "support_agent", "accounts", "ticket"),
                    _menu(_("Announcements"), "campaign", "accounts", "announcement"),
                    _menu(_("Leases"), "event_available", "serials", "lease"),
                    _menu(_("Bindings"), "link", "serials", "binding"),
                ],
            },
            {
                "title": _("Serials"),
                "items": [
                    _menu(_("Plans"), "sell", "serials", "plan"),
                    _menu(_("Serial batches"), "inventory_2", "serials", "serialbatch"),
                    _menu(_("Serial numbers"), "confirmation_number", "serials", "serialnumber"),
                ],
            },
            {
                "title": _("Money"),
                "items": [
                    {
                        **_menu(_("Finance"), "finance", "billing", "posting"),
                        "link": reverse_lazy("admin:billing_finance"),
                    },
                    _menu(_("Orders"), "shopping_cart", "billing", "order"),
                    _menu(_("Payments"), "payments", "billing", "payment"),
                    _menu(_("Transfers"), "account_balance", "billing", "transfer"),
                    _menu(_("Refunds"), "currency_exchange", "billing", "refund"),
                    _menu(_("Gateway callbacks"), "webhook", "billing", "gatewaycallback"),
                    _menu(_("Ledger"), "menu_book", "billing", "posting"),
                    _menu(_("Closed months"), "lock", "billing", "closedmonth"),
                    _menu(_("Figures of days"), "calendar_today", "billing", "dailyfigure"),
                    _menu(_("Prices"), "sell", "billing", "price"),
                    _menu(_("Wholesale prices"), "warehouse", "billing", "wholesaleprice"),
                    _menu(_("Packs on sale"), "add_shopping_cart", "billing", "packoffer"),
                    _menu(_("Coupons"), "redeem", "billing", "coupon"),
                    _menu(_("Payment methods"), "credit_card", "billing", "paymentmethod"),
                    _menu(_("Outside shops"), "storefront", "billing", "saleschannel"),
                ],
            },
            {
                "title": _("Resellers"),
                "items": [
                    _menu(_("Resellers"), "handshake", "resellers", "reseller"),
                    _menu(_("Levels of resellers"), "stairs", "resellers", "level"),
                    _menu(_("Commissions"), "percent", "resellers", "commissionline"),
                    _menu(_("Suspicions"), "gpp_maybe", "resellers", "suspicion"),
                    _menu(_("Settlements"), "request_quote", "resellers", "settlement"),
                    _menu(_("Attributions"), "diversity_3", "resellers", "attribution"),
                    _menu(_("Sign-ups by links"), "person_add", "resellers", "signup"),
                    _menu(_("Clicks of days"), "ads_click", "resellers", "linkday"),
                    _menu(_("Resales"), "point_of_sale", "resellers", "resale"),
                    _menu(_("Resellers of leases"), "contact_page", "resellers", "leasecontact"),
                ],
            },
            {
                "title": _("Fleet"),
                "items": [
                    {
                        **_menu(_("Fleet overview"), "map", "fleet", "server"),
                        "link": reverse_lazy("admin:fleet_overview"),
                    },
                    {
                        **_menu(_("Graphs"), "area_chart", "fleet", "serverload"),
                        "link": reverse_lazy("admin:fleet_graphs"),
                    },
                    _menu(_("Alerts"), "notifications_active", "fleet", "alert"),
                    _menu(_("Alert rules"), "rule", "fleet", "alertrule"),
                    _menu(_("Alert channels"), "campaign", "fleet", "alertchannel"),
                    _menu(_("Silences"), "notifications_paused", "fleet", "silence"),
                    _menu(_("Alert deliveries"), "outgoing_mail", "fleet", "alertdelivery"),
                    _menu(_("Breaches"), "warning", "fleet", "breach"),
                    _menu(_("Servers"), "dns", "fleet", "server"),
                    _menu(_("Load of servers"), "monitoring", "fleet", "serverload"),
                    _menu(_("Measurements"), "show_chart", "fleet", "measurement"),
                    _menu(_("Regions"), "public", "fleet", "region"),
                    _menu(_("Relays"), "hub", "fleet", "relay"),
                    _menu(_("Relay groups"), "workspaces", "fleet", "relaygroup"),
                    _menu(_("Traffic"), "swap_vert", "fleet", "traffic"),
                    _menu(_("Quota periods"), "data_usage", "fleet", "quotaperiod"),
                    _menu(_("Traffic packs"), "add_box", "fleet", "trafficpack"),
                    _menu(_("Limits of users"), "production_quantity_limits", "fleet", "userlimit"),
                    _menu(_("Meters"), "speed", "fleet", "meter"),
                    _menu(_("Failovers"), "emergency_share", "fleet", "evacuation"),
                    _menu(_("Moves"), "moving", "fleet", "move"),
                    _menu(_("Roll-outs"), "deployed_code_update", "fleet", "rollout"),
                    _menu(_("Devices"), "devices", "fleet", "nodekey"),
                    _menu(_("Access policies"), "shield_lock", "fleet", "aclconfig"),
                    _menu(_("At the doors"), "door_front", "fleet", "acllog"),
                    _menu(_("Knocks"), "waving_hand", "fleet", "knock"),
                    _menu(_("Control servers"), "sync", "fleet", "controlserver"),
                    _menu(_("Pushed maps"), "upload", "fleet", "mappush"),
                    _menu(_("Health"), "monitor_heart", "fleet", "relayhealth"),
                    _menu(_("Uptime"), "check_circle", "fleet", "relayuptime"),
                    _menu(_("Outages"), "cloud_off", "fleet", "outage"),
                    _menu(_("Events of relays"), "history", "fleet", "relayevent"),
                    _menu(_("Events of servers"), "manage_history", "fleet", "serverevent"),
                    _menu(_("Authority"), "verified_user", "fleet", "authority"),
                ],
            },
            {
                "title": _("Portal"),
                "items": [
                    _menu(_("Mail"), "mail", "accounts", "notification"),
                    {
                        "title": _("System log"),
                        "icon": "receipt_long",
                        "link": reverse_lazy("system_log"),
                        "permission": "derp_portal.system_log.page.may_read",
                    },
                    _menu(_("Audit trail"), "policy", "accounts", "auditentry"),
                    _menu(_("Failed tasks"), "error", "accounts", "taskfailure"),
                    _menu(_("API tokens"), "key", "accounts", "apitoken"),
                    _menu(_("Staff groups"), "shield_person", "auth", "group"),
                    _menu(_("Schedule"), "schedule", "django_celery_beat", "periodictask"),
                    _menu(_("Intervals"), "timer", "django_celery_beat", "intervalschedule"),
                    _menu(_("Crontabs"), "calendar_month", "django_celery_beat", "crontabschedule"),
                ],
            },
        ],
    },
}

# --- logs -----------------------------------------------------------------------------------------
LOGGING_CONFIG = "derp_portal.logs.configure"
LOGGING = {"json": env.bool("LOG_JSON", default=False), "level": env.str("LOG_LEVEL", default="INFO")}
DJANGO_STRUCTLOG_IP_LOGGING_ENABLED = False
NINJA_PAGINATION_PER_PAGE = 50
