"""Every address of the portal, each served by the highest room it needs."""

from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.urls import include, path

from derp_portal.api import api
from derp_portal.health import healthz
from derp_portal.prometheus import metrics
from derp_portal.system_log.page import system_log_export, system_log_page

# The admin logs in like everybody else: with the same rate limits, and only once the e-mail is confirmed.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]

urlpatterns = [
    path("healthz", healthz, name="healthz"),
    path("metrics", metrics, name="metrics"),
    path("admin/system-log/", admin.site.admin_view(system_log_page), name="system_log"),
    path("admin/system-log/export/", admin.site.admin_view(system_log_export), name="system_log_export"),
    path("admin/", admin.site.urls),
    path("api/", api.urls),
    path("i18n/", include("django.conf.urls.i18n")),
    path("accounts/", include("allauth.account.urls")),
    path("", include("accounts.urls")),
    path("", include("fleet.urls")),
    path("", include("resellers.urls")),
    path("", include("billing.urls")),
    path("", include("serials.urls")),
]
