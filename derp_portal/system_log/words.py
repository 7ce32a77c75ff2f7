"""What the events of the audit trail are called when people read them."""

from __future__ import annotations

from django.apps import apps
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

AUDIT: dict[str, Promise] = {
    "acl.changed": _("Access policy changed"),
    "alert.acknowledged": _("Alert acknowledged"),
    "alert.resolved": _("Alert resolved by hand"),
    "alert.sent": _("Alert sent by hand"),
    "alertchannel.tested": _("Alert channel tested"),
    "authority.certificate_issued": _("Certificate for a host issued"),
    "authority.client_renewed": _("The portal's own certificate renewed"),
    "authority.made": _("The portal's certificate authority made"),
    "authority.script_made": _("Enrolment script made"),
    "control_server.added": _("Control server connected"),
    "control_server.removed": _("Control server disconnected"),
    "devices.added": _("Devices listed"),
    "devices.removed": _("Device removed"),
    "group.absent": _("Relays are to be removed"),
    "group.created": _("Relay group made"),
    "group.map_url_revoked": _("Map URL revoked"),
    "group.map_url_rotated": _("Map URL replaced"),
    "group.not_only_ours": _("Tailscale's own relays are in the map again"),
    "group.only_ours": _("Tailscale's own relays left out of the map"),
    "group.over_quota": _("Quota used up"),
    "group.pack_added": _("Traffic pack added"),
    "group.quarantine_ended": _("Quarantine of a relay group ended"),
    "group.quarantined": _("Relay group quarantined"),
    "group.released": _("Relay group released"),
    "group.running": _("Relays are to run"),
    "group.servers_limited": _("Servers of a relay group limited"),
    "group.stopped": _("Relays are to stop"),
    "group.within_quota": _("Within the quota again"),
    "lease.compensated": _("Lost time added to a lease"),
    "lease.ended": _("Lease ended"),
    "lease.notice_sent": _("Notice about a lease sent"),
    "lease.released": _("Lease released"),
    "lease.renamed": _("Lease renamed"),
    "lease.next_term_started": _("Next term started early"),
    "lease.renewed": _("Lease renewed"),
    "map.push_undone": _("Pushed map taken out of a policy file"),
    "map.pushed": _("Map pushed into a policy file"),
    "notification.resent": _("Mail queued again"),
    "notification.written": _("Message sent to a user"),
    "relay.allocated": _("Relay allocated by hand"),
    "relay.certificate_prepared": _("New certificate of a relay announced"),
    "relay.certificate_switched": _("Certificate of a relay switched"),
    "relay.moved": _("Relay moved by hand"),
    "relay.region_id_chosen": _("Region id of a relay chosen"),
    "relay.released": _("Relay released"),
    "relay.restarted": _("Restart of a relay asked for"),
    "rollout.canary_passed": _("Roll-out: the first server is well"),
    "rollout.cancelled": _("Roll-out called off"),
    "rollout.done": _("Roll-out done"),
    "rollout.resumed": _("Roll-out resumed"),
    "rollout.rolled_back": _("Roll-out taken back"),
    "rollout.started": _("Roll-out started"),
    "rollout.stopped": _("Roll-out stopped"),
    "serial.activated": _("Serial redeemed"),
    "serials.exported": _("Serials exported"),
    "serials.generated": _("Serials generated"),
    "serials.revoked": _("Serials revoked"),
    "server.drain_ended": _("Drain of a server ended"),
    "server.drained": _("Drain of a server begun"),
    "server.failover": _("Failover asked for"),
    "server.ports_checked": _("Ports of a server checked"),
    "system_log.exported": _("System log exported"),
    "token.issued": _("API token issued"),
    "token.revoked": _("API token revoked"),
    "user.created": _("User made by an operator"),
    "user.deactivated": _("Account switched off"),
    "user.email_changed": _("E-mail address changed"),
    "user.email_confirmed": _("E-mail address confirmed"),
    "user.logged_in": _("Logged in"),
    "user.password_changed": _("Password changed"),
    "user.profile_changed": _("Profile changed"),
    "user.reactivated": _("Account switched on"),
    "user.registered": _("Signed up"),
    "user.rights_changed": _("Rights changed"),
    "user.role_changed": _("Role changed"),
    "user.sessions_ended": _("Signed out of every browser"),
    "user.traffic_limit_removed": _("Traffic limit of a user removed"),
    "user.traffic_limited": _("Traffic limit of a user set"),
}

# What saving a page of the admin is called; the object is named by its model.
VERBS: dict[str, Promise] = {
    "added": _("%(thing)s added"),
    "changed": _("%(thing)s changed"),
    "deleted": _("%(thing)s deleted"),
}


def audit_words(event: str) -> str:
    """The event in the reader's words; one that is not known is shown as it is."""
    if words := AUDIT.get(event):
        return str(words)
    thing, _dot, verb = event.partition(".")
    if verb in VERBS:
        for model in apps.get_models():
            if model._meta.model_name == thing:
                return str(VERBS[verb]) % {"thing": model._meta.verbose_name}
    return event
