from django.urls import path

from billing import cashier_page, order_pages, shop_pages
from billing.callback_views import gateway_callback

urlpatterns = [
    path("", shop_pages.home, name="home"),
    path("shop/", shop_pages.shop, name="shop"),
    path("shop/packs/<slug:code>/", shop_pages.shop_pack, name="shop_pack"),
    path("shop/<slug:code>/", shop_pages.shop_plan, name="shop_plan"),
    path("orders/", order_pages.orders, name="orders"),
    path("orders/<slug:number>/", order_pages.order, name="order"),
    path("orders/<slug:number>/live/", order_pages.order_live, name="order_live"),
    path("orders/<slug:number>/cancel/", order_pages.order_cancel, name="order_cancel"),
    path("orders/<slug:number>/receipt.pdf", order_pages.order_receipt, name="order_receipt"),
    path("orders/<slug:number>/pay/<slug:method>/", order_pages.order_pay, name="order_pay"),
    path("orders/<slug:number>/payment/<slug:reference>/", order_pages.order_payment, name="order_payment"),
    path(
        "orders/<slug:number>/payment/<slug:reference>/live/",
        order_pages.order_payment_live,
        name="order_payment_live",
    ),
    path("pay/sandbox/", cashier_page.sandbox_cashier, name="sandbox_cashier"),
    path("pay/callback/<slug:code>/", gateway_callback, name="gateway_callback"),
]
