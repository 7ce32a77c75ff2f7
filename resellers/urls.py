from django.urls import path

from resellers import earning_pages, landing_pages, sale_pages, seller_pages, stock_pages, ticket_pages, trade_pages

urlpatterns = [
    path("r/<slug:code>/", landing_pages.referral, name="referral"),
    path("leases/<int:lease_id>/seller/", seller_pages.lease_seller, name="lease_seller"),
    path("reseller/", trade_pages.home, name="reseller_home"),
    path("reseller/apply/", trade_pages.apply, name="reseller_apply"),
    path("reseller/settings/", trade_pages.settings, name="reseller_settings"),
    path("reseller/settings/payout/", trade_pages.payout, name="reseller_payout"),
    path("reseller/links/", trade_pages.links, name="reseller_links"),
    path("reseller/links/qr.svg", trade_pages.qr, name="reseller_qr"),
    path("reseller/customers/", earning_pages.customers, name="reseller_customers"),
    path("reseller/commissions/", earning_pages.commissions, name="reseller_commissions"),
    path("reseller/settlements/", earning_pages.settlements, name="reseller_settlements"),
    path("reseller/settlements/<int:settlement_id>/", earning_pages.settlement, name="reseller_settlement"),
    path("reseller/settlements/<int:settlement_id>/statement.pdf", earning_pages.statement, name="reseller_statement"),
    path("reseller/stock/", stock_pages.stock, name="reseller_stock"),
    path("reseller/stock/export.csv", stock_pages.export, name="reseller_stock_export"),
    path("reseller/stock/recall/", stock_pages.recall, name="reseller_recall"),
    path("reseller/stock/buy/", stock_pages.buy, name="reseller_buy"),
    path("reseller/balance/", stock_pages.top_up, name="reseller_top_up"),
    path("reseller/prices/", stock_pages.prices, name="reseller_prices"),
    path("reseller/tickets/", ticket_pages.tickets, name="reseller_tickets"),
    path("reseller/tickets/waiting/", ticket_pages.waiting, name="reseller_tickets_waiting"),
    path("reseller/sales/", sale_pages.sales, name="reseller_sales"),
    path("reseller/sales/new/", sale_pages.sale, name="reseller_sale"),
    path("reseller/sales/<int:serial_id>/remove/", sale_pages.remove_sale, name="reseller_sale_remove"),
    path("reseller/sales/import/", sale_pages.sales_import, name="reseller_sales_import"),
]
