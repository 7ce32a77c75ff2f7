from django.urls import path

from fleet import views

urlpatterns = [
    path("derp/admit/<str:secret>", views.admit, name="admit"),
    path("derpmap/<str:token>.json", views.derp_map, name="derp_map"),
    path("devices/", views.devices, name="devices"),
    path("devices/<int:node_key_id>/remove/", views.device_remove, name="device_remove"),
]
