"""Outside shops (发卡 shops, Taobao, Xianyu): each with plans it may hand out, a stock of serials, and one token."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from serials.models import Plan, SerialBatch


class SalesChannel(models.Model):
    """A shop outside the portal that fetches codes by API. Its token opens nothing else."""

    code = models.SlugField(_("code"), max_length=40, unique=True)
    name = models.CharField(_("name"), max_length=80)
    plans = models.ManyToManyField(
        Plan, related_name="+", verbose_name=_("plans"), help_text=_("It may hand out serials of these, and no others.")
    )
    is_enabled = models.BooleanField(_("enabled"), default=True)
    makes_serials = models.BooleanField(
        _("new serials when the stock is empty"),
        default=False,
        help_text=_("Else an order that finds no serial is refused, and the shop asks again."),
    )
    low_stock = models.PositiveIntegerField(
        _("low stock"), default=20, help_text=_("An alert is raised when a plan has fewer serials left; 0 = never.")
    )
    fee_basis_points = models.PositiveIntegerField(
        _("the shop's share"), default=0, help_text=_("In hundredths of a percent: 60 is 0.6 %.")
    )
    token_prefix = models.CharField(_("token begins with"), max_length=16, blank=True, editable=False)
    token_digest = models.CharField(max_length=64, blank=True, editable=False)
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True, editable=False)
    note = models.CharField(_("note"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        db_table = "sales_channels"
        ordering = ["name", "id"]
        verbose_name = _("outside shop")
        verbose_name_plural = _("outside shops")
        constraints = [
            models.UniqueConstraint(
                fields=["token_digest"], condition=~Q(token_digest=""), name="one_channel_per_token"
            ),
            models.CheckConstraint(condition=Q(fee_basis_points__lte=10_000), name="shop_keeps_no_more_than_all"),
        ]

    def __str__(self) -> str:
        return self.name


class ChannelStock(models.Model):
    """A batch of serials that is set aside for one shop."""

    channel = models.ForeignKey(
        SalesChannel, on_delete=models.PROTECT, related_name="stock", verbose_name=_("outside shop")
    )
    batch = models.OneToOneField(
        SerialBatch, on_delete=models.PROTECT, related_name="channel_stock", verbose_name=_("serial batch")
    )
    created_at = models.DateTimeField(_("since"), auto_now_add=True)

    class Meta:
        db_table = "channel_stock"
        ordering = ["-id"]
        verbose_name = _("stock of a shop")
        verbose_name_plural = _("stocks of shops")

    def __str__(self) -> str:
        return f"{self.channel} · {self.batch}"
