"""Pages about oneself: profile, security, API tokens, notifications."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accounts import services
from accounts.access import notification_for, signed_in, token_for
from accounts.forms import ProfileForm, TokenForm, zone_names
from accounts.models import User
from accounts.selectors import notifications_of, tokens_of
from accounts.tables import NotificationFilter, NotificationTable, TokenFilter, TokenTable, configured


@login_required
def profile(request: HttpRequest) -> HttpResponse:
    """Language and time zone."""
    # A copy: a form writes into its instance even when what was typed is wrong.
    form = ProfileForm(request.POST or None, instance=User.objects.get(pk=signed_in(request).pk))
    if request.method == "POST" and form.is_valid():
        services.update_profile(user_id=signed_in(request).pk, actor=signed_in(request), **form.cleaned_data)
        messages.success(request, _("Your profile was saved."))
        return redirect("profile")
    return render(request, "accounts/profile.html", {"form": form, "zones": zone_names()})


@login_required
@require_safe
def security(request: HttpRequest) -> HttpResponse:
    """Where one changes the password and the address, and ends other sessions."""
    return render(request, "accounts/security.html")


@login_required
@require_POST
def end_sessions(request: HttpRequest) -> HttpResponse:
    """Sign out of every other browser."""
    services.end_sessions(user_id=signed_in(request).pk, actor=signed_in(request))
    # This browser stays: it gets the new session hash.
    update_session_auth_hash(request, User.objects.get(pk=signed_in(request).pk))
    messages.success(request, _("You are signed out everywhere else."))
    return redirect("security")


@login_required
@require_safe
def tokens(request: HttpRequest) -> HttpResponse:
    """The list of one's API tokens."""
    found = TokenFilter(request.GET, queryset=tokens_of(signed_in(request)))
    table = configured(TokenTable(found.qs), request)
    return render(request, "accounts/tokens.html", {"filter": found, "table": table})


@login_required
@never_cache
def token_create(request: HttpRequest) -> HttpResponse:
    """Make a token; its secret is on the answer to the form and nowhere else."""
    form = TokenForm(request.POST or None, user=signed_in(request))
    if request.method == "POST" and form.is_valid():
        token, secret = services.issue_token(
            user=signed_in(request),
            name=form.cleaned_data["name"],
            scopes=form.cleaned_data["scopes"],
            expires_at=form.expires_at(),
            actor=signed_in(request),
        )
        return render(request, "accounts/token_created.html", {"token": token, "secret": secret})
    return render(request, "accounts/token_form.html", {"form": form})


@login_required
def token_revoke(request: HttpRequest, token_id: int) -> HttpResponse:
    """End a token, after asking."""
    token = token_for(signed_in(request), token_id)
    if request.method == "POST":
        services.revoke_token(token_id=token.pk, actor=signed_in(request))
        messages.success(request, _("The token “%(name)s” no longer opens anything.") % {"name": token.name})
        return redirect("tokens")
    return render(request, "accounts/token_revoke.html", {"token": token})


@login_required
@require_safe
def notifications(request: HttpRequest) -> HttpResponse:
    """What the portal wrote to oneself."""
    found = NotificationFilter(request.GET, queryset=notifications_of(signed_in(request)))
    table = configured(NotificationTable(found.qs), request)
    return render(request, "accounts/notifications.html", {"filter": found, "table": table})


@login_required
@require_safe
def notification(request: HttpRequest, notification_id: int) -> HttpResponse:
    """One message, as its mail said it."""
    message = notification_for(signed_in(request), notification_id)
    return render(request, "accounts/notification.html", {"notification": message})
