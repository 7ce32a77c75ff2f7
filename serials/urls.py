from django.urls import path

from serials import hand_over_pages, traffic_pages, views

urlpatterns = [
    path("dashboard/", views.dashboard, name="dashboard"),
    path("dashboard/live/", views.dashboard_live, name="dashboard_live"),
    path("redeem/", views.redeem, name="redeem"),
    path("serials/", views.serial_history, name="serial_history"),
    path("history/", views.usage_history, name="usage_history"),
    path("traffic/", traffic_pages.traffic, name="traffic"),
    path("traffic/live/", traffic_pages.traffic_live, name="traffic_live"),
    path("traffic/daily.csv", traffic_pages.traffic_csv, name="traffic_csv"),
    path("leases/<int:lease_id>/", views.lease, name="lease"),
    path("leases/<int:lease_id>/rename/", views.lease_rename, name="lease_rename"),
    path("leases/<int:lease_id>/next-term/", views.lease_next_term, name="lease_next_term"),
    path("leases/<int:lease_id>/hand-over/", hand_over_pages.hand_over, name="hand_over"),
    path("leases/<int:lease_id>/hand-over/taken/", hand_over_pages.hand_over_taken, name="hand_over_taken"),
    path("leases/<int:lease_id>/hand-over/only-ours/", hand_over_pages.hand_over_only_ours, name="hand_over_only_ours"),
    path(
        "leases/<int:lease_id>/hand-over/push/<int:server_id>/", hand_over_pages.hand_over_push, name="hand_over_push"
    ),
    path("leases/<int:lease_id>/hand-over/undo/", hand_over_pages.hand_over_undo, name="hand_over_undo"),
    path(
        "leases/<int:lease_id>/relays/<slug:code>/certificate/",
        hand_over_pages.certificate_switch,
        name="certificate_switch",
    ),
    path("leases/<int:lease_id>/map-url/new/", views.map_url_rotate, name="map_url_rotate"),
    path("leases/<int:lease_id>/map-url/off/", views.map_url_revoke, name="map_url_revoke"),
    path("leases/<int:lease_id>/relays/<slug:code>/region-id/", views.region_id, name="region_id"),
]
