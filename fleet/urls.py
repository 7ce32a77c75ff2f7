from django.urls import path

from fleet import views

urlpatterns = [
    path("derp/admit/<str:secret>", views.admit, name="admit"),
    path("derpmap/<str:token>.json", views.derp_map, name="derp_map"),
    path("devices/", views.devices, name="devices"),
    path("devices/policy/", views.policy_change, name="policy_change"),
    path("devices/history/", views.policy_history, name="policy_history"),
    path("devices/history/<int:version>/", views.policy_roll_back, name="policy_roll_back"),
    path("devices/log/", views.door_log, name="door_log"),
    path("devices/<int:node_key_id>/remove/", views.device_remove, name="device_remove"),
]
