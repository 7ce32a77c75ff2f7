"""The addresses of the pages about oneself; mounted by the composition under a prefix of its choice."""

from __future__ import annotations

from django.urls import path

from accounts import announcement_pages, ticket_pages, views

urlpatterns = [
    path("profile/", views.profile, name="profile"),
    path("security/", views.security, name="security"),
    path("security/end-sessions/", views.end_sessions, name="end_sessions"),
    path("tokens/", views.tokens, name="tokens"),
    path("tokens/new/", views.token_create, name="token_create"),
    path("tokens/<int:token_id>/revoke/", views.token_revoke, name="token_revoke"),
    path("notifications/", views.notifications, name="notifications"),
    path("notifications/<int:notification_id>/", views.notification, name="notification"),
    path("announcements/", announcement_pages.announcements, name="announcements"),
    path(
        "announcements/<int:announcement_id>/close/", announcement_pages.announcement_close, name="announcement_close"
    ),
    path("tickets/", ticket_pages.tickets, name="tickets"),
    path("tickets/new/", ticket_pages.ticket_new, name="ticket_new"),
    path("tickets/<slug:number>/", ticket_pages.ticket, name="ticket"),
    path("tickets/<slug:number>/live/", ticket_pages.ticket_live, name="ticket_live"),
    path("tickets/<slug:number>/close/", ticket_pages.ticket_close, name="ticket_close"),
    path("tickets/<slug:number>/pass-on/", ticket_pages.ticket_pass_on, name="ticket_pass_on"),
]
