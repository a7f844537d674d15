"""secondsite.engine: replicate a disk image into a replica with recovery points, verify it, restore from it.

    from secondsite import engine

    done = engine.replicate("vm.raw", "/backup/vm")          # the first call copies, later ones send what changed
    engine.points("/backup/vm")                              # -> [PointInfo(point='1', ...), ...]
    engine.verify("/backup/vm").ok                           # hash everything that it holds
    engine.restore("/backup/vm", "vm-old.raw", at="1")       # a point as an image file
    engine.open_point("/backup/vm", at="1")                  # ... or as an Image, without a copy

Every call raises a subclass of `engine.Error` with `exit_code` and `retryable`, and takes `progress` (called with a
`Progress`) and `cancel` (returns True to stop) where it may run long. Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secondsite.engine.adoption import adopt
    from secondsite.engine.conversion import convert
    from secondsite.engine.deletion import delete_replica
    from secondsite.engine.diskdeletion import delete_disk, disk_in_use
    from secondsite.engine.errors import Error
    from secondsite.engine.exporter import serve_figures
    from secondsite.engine.figures import Family
    from secondsite.engine.following import standby
    from secondsite.engine.forgetting import stop_following
    from secondsite.engine.hrl.export import export_hrl
    from secondsite.engine.images import Extent, Image, RawImage, open_image
    from secondsite.engine.images.vhdx.create import create_vhdx
    from secondsite.engine.inspection import check_image, image_map, info, points
    from secondsite.engine.maintain import cancel_resync, open_point, prune, prune_report, raise_epoch
    from secondsite.engine.materialization import materialize
    from secondsite.engine.notes import read_note, write_note
    from secondsite.engine.overlays import create_overlay, overlays_of, release_overlay, remove_overlay
    from secondsite.engine.placing import place, place_commit, place_undo
    from secondsite.engine.progress import Progress
    from secondsite.engine.qemu.agent import Freeze, GuestAgent, guest_frozen, thaw_guest
    from secondsite.engine.qemu.machine import Qemu
    from secondsite.engine.qemu.qmp import Monitor
    from secondsite.engine.remote.hosts import (
        AgentAt,
        HostIdentity,
        PairedHost,
        agent,
        host_identity,
        init_identity,
        pair,
        peers,
        registration_key,
        renew_identity,
        revoke,
    )
    from secondsite.engine.remote.sending.outbound import Link
    from secondsite.engine.replica.claims import Claim
    from secondsite.engine.replication import replicate, replicate_logs
    from secondsite.engine.restoration import restore
    from secondsite.engine.results.cycle import Pruned, Replicated
    from secondsite.engine.results.listed import (
        Finding,
        ImageInfo,
        KeyInfo,
        MapExtent,
        PointInfo,
        ReplicaInfo,
        StoreChecked,
    )
    from secondsite.engine.results.outputs import Converted, Followed, Materialized, Overlaid, Placed, Restored
    from secondsite.engine.results.proof import Verified
    from secondsite.engine.results.seeds import Adopted, SeedExported, SeedImported
    from secondsite.engine.room import room_to_adopt, room_to_place, room_to_run
    from secondsite.engine.seedexport import export_seed
    from secondsite.engine.seedimport import import_seed
    from secondsite.engine.serving import Serving, serve
    from secondsite.engine.store.checking import check_store
    from secondsite.engine.store.key import Key, current_key, new_key_file, using_key
    from secondsite.engine.store.keycalls import add_key, remove_key, replica_keys
    from secondsite.engine.together import Disk, export_seeds_together, replicate_together
    from secondsite.engine.tracked.service import Tracking, track
    from secondsite.engine.trackers.served import tracking_status
    from secondsite.engine.verification import verify
    from secondsite.engine.watching import Status, watch

_HOME = {
    "delete_replica": "deletion",
    "delete_disk": "diskdeletion",
    "disk_in_use": "diskdeletion",
    "Error": "errors",
    "Extent": "images",
    "Image": "images",
    "RawImage": "images",
    "open_image": "images",
    "info": "inspection",
    "points": "inspection",
    "Link": "remote.sending.outbound",
    "open_point": "maintain",
    "cancel_resync": "maintain",
    "prune": "maintain",
    "prune_report": "maintain",
    "raise_epoch": "maintain",
    "read_note": "notes",
    "write_note": "notes",
    "create_overlay": "overlays",
    "overlays_of": "overlays",
    "release_overlay": "overlays",
    "remove_overlay": "overlays",
    "Overlaid": "results.outputs",
    "Claim": "replica.claims",
    "place": "placing",
    "place_commit": "placing",
    "place_undo": "placing",
    "Placed": "results.outputs",
    "Progress": "progress",
    "GuestAgent": "qemu.agent",
    "Monitor": "qemu.qmp",
    "Freeze": "qemu.agent",
    "guest_frozen": "qemu.agent",
    "thaw_guest": "qemu.agent",
    "Qemu": "qemu.machine",
    "export_hrl": "hrl.export",
    "AgentAt": "remote.hosts",
    "HostIdentity": "remote.hosts",
    "PairedHost": "remote.hosts",
    "agent": "remote.hosts",
    "host_identity": "remote.hosts",
    "init_identity": "remote.hosts",
    "pair": "remote.hosts",
    "peers": "remote.hosts",
    "registration_key": "remote.hosts",
    "renew_identity": "remote.hosts",
    "revoke": "remote.hosts",
    "replicate": "replication",
    "replicate_logs": "replication",
    "Materialized": "results.outputs",
    "Followed": "results.outputs",
    "materialize": "materialization",
    "standby": "following",
    "restore": "restoration",
    "room_to_adopt": "room",
    "room_to_place": "room",
    "room_to_run": "room",
    "Serving": "serving",
    "Family": "figures",
    "serve": "serving",
    "serve_figures": "exporter",
    "Adopted": "results.seeds",
    "adopt": "adoption",
    "export_seed": "seedexport",
    "import_seed": "seedimport",
    "SeedExported": "results.seeds",
    "SeedImported": "results.seeds",
    "Converted": "results.outputs",
    "Finding": "results.listed",
    "MapExtent": "results.listed",
    "StoreChecked": "results.listed",
    "check_image": "inspection",
    "check_store": "store.checking",
    "convert": "conversion",
    "create_vhdx": "images.vhdx.create",
    "image_map": "inspection",
    "ImageInfo": "results.listed",
    "PointInfo": "results.listed",
    "Pruned": "results.cycle",
    "ReplicaInfo": "results.listed",
    "Replicated": "results.cycle",
    "Restored": "results.outputs",
    "Verified": "results.proof",
    "Key": "store.key",
    "KeyInfo": "results.listed",
    "current_key": "store.key",
    "new_key_file": "store.key",
    "using_key": "store.key",
    "add_key": "store.keycalls",
    "remove_key": "store.keycalls",
    "replica_keys": "store.keycalls",
    "Tracking": "tracked.service",
    "track": "tracked.service",
    "stop_following": "forgetting",
    "tracking_status": "trackers.served",
    "verify": "verification",
    "Disk": "together",
    "replicate_together": "together",
    "export_seeds_together": "together",
    "Status": "watching",
    "watch": "watching",
}

__all__ = [
    "Adopted", "AgentAt", "Claim", "Converted", "Disk", "Error", "Extent", "Family", "Finding", "Followed", "Freeze",
    "GuestAgent", "HostIdentity", "Image", "ImageInfo", "Key", "KeyInfo", "Link", "MapExtent", "Materialized",
    "Monitor", "Overlaid", "PairedHost", "Placed", "PointInfo", "Progress", "Pruned", "Qemu", "RawImage",
    "ReplicaInfo", "Replicated", "Restored", "SeedExported", "SeedImported", "Serving", "Status", "StoreChecked",
    "Tracking", "Verified", "add_key", "adopt", "agent", "cancel_resync", "check_image", "check_store", "convert",
    "create_overlay", "create_vhdx", "current_key", "delete_disk", "delete_replica", "disk_in_use", "export_hrl",
    "export_seed", "export_seeds_together", "guest_frozen", "host_identity", "image_map", "import_seed", "info",
    "init_identity", "materialize", "new_key_file", "open_image", "open_point", "overlays_of", "pair", "peers",
    "place", "place_commit", "place_undo", "points", "prune", "prune_report", "raise_epoch", "read_note",
    "registration_key", "release_overlay", "remove_key", "remove_overlay", "renew_identity", "replica_keys",
    "replicate", "replicate_logs", "replicate_together", "restore", "revoke", "room_to_adopt", "room_to_place",
    "room_to_run", "serve", "serve_figures", "standby", "stop_following", "thaw_guest", "track", "tracking_status",
    "using_key", "verify", "watch", "write_note",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
