from django.db import migrations

from derp_portal.lib.beat import LATEST_BEAT_MIGRATION, seed

SWEEPS = [
    ("Fleet: write down what doors answered", "fleet.tasks.write_door_log", 5),
    ("Fleet: close doors that have learned", "fleet.tasks.close_learned", 60),
    ("Fleet: watch the doors", "fleet.tasks.watch_doors", 300),
    ("Fleet: renew certificates of relays", "fleet.tasks.renew_certificates", 600),
    ("Fleet: push changed maps", "fleet.tasks.push_maps", 60),
    ("Fleet: follow control servers", "fleet.tasks.sync_devices", 60),
]


def seed_sweeps(apps, schema_editor):
    for name, task, seconds in SWEEPS:
        seed(apps, name=name, task=task, every_seconds=seconds)


def keep_doors_as_they_are(apps, schema_editor):
    """Until now a door let everybody in while no device was listed, and only listed ones once there was one.

    Devices that are connected do not knock again for weeks, so nothing could be learned of them: doors stay as they are.
    """
    models = {name: apps.get_model("fleet", name) for name in ("AclConfig", "NodeKey", "RelayGroup")}
    owners = models["RelayGroup"].objects.order_by().values_list("owner", flat=True).distinct()
    for owner in owners.iterator():
        devices = models["NodeKey"].objects.filter(owner=owner).order_by("id").values("key", "name")
        models["AclConfig"].objects.create(
            user_id=owner, version=1, mode="closed" if devices else "open", devices=list(devices)
        )


class Migration(migrations.Migration):
    dependencies = [("fleet", "0008_acl"), LATEST_BEAT_MIGRATION]

    operations = [
        migrations.RunPython(seed_sweeps, migrations.RunPython.noop),
        migrations.RunPython(keep_doors_as_they_are, migrations.RunPython.noop),
    ]
