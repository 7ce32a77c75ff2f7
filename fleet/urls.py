from django.urls import path

from fleet import views

urlpatterns = [
    path("derp/admit/<str:secret>", views.admit, name="admit"),
    path("derpmap/<str:token>.json", views.derp_map, name="derp_map"),
    path("devices/", views.devices, name="devices"),
    path("devices/policy/", views.policy_change, name="policy_change"),
    path("devices/history/", views.policy_history, name="policy_history"),
    path("devices/history/<int:version>/", views.policy_roll_back, name="policy_roll_back"),
    path("devices/knocks/<int:knock_id>/", views.knock_answer, name="knock_answer"),
    path("let-in/<str:tap>/", views.knock_approve, name="knock_approve"),
    path("devices/control-servers/", views.control_servers, name="control_servers"),
    path("devices/control-servers/<int:server_id>/sync/", views.control_server_sync, name="control_server_sync"),
    path("devices/control-servers/<int:server_id>/remove/", views.control_server_remove, name="control_server_remove"),
    path("devices/log/", views.door_log, name="door_log"),
    path("devices/<int:node_key_id>/remove/", views.device_remove, name="device_remove"),
]
