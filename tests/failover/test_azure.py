"""Azure as the target (S4): a failover ends with page blobs and what a machine is made of; it comes home from them.

What was made of a point there goes when nobody is to run from it any more: R9.3, R9.10, R10.6.
"""

from __future__ import annotations

import os

import pytest
from azure.storage.blob import BlobLeaseClient
from cloudkit import SIZE, Cloud

from bench import plainly
from secondsite.engine import errors
from secondsite.orchestration.failover import asking
from secondsite.orchestration.failover.intent import Options
from secondsite.orchestration.health.states import State

pytestmark = pytest.mark.needs("azurite")


def test_to_azure_and_home_from_there(cloud: Cloud, sweep: bool) -> None:
    """The change of its point, and the way home, in the sweep."""
    first, second = cloud.cycle(), cloud.cycle()
    contents = {one.number: cloud.contents(one) for one in (first, second)}
    item = cloud.failovers().fail_over("app1", "unplanned", point=first.number)
    assert (item.state, item.active) == (State.FAIL_OVER_WAITING_COMPLETION, "target")
    assert cloud.away() == contents[first.number]
    told = asking.standing(item)["failover"]["there"]["definition"]
    assert [(one["name"], one["os"]) for one in told["disks"]] == [("system", True), ("data", False)]
    assert told["nics"][0]["network"] == "azure-lan" and told["nics"][0]["subnet"] == "servers"
    if not sweep:
        return
    number = cloud.machines()
    cloud.failovers().act("app1", "change-point", point=second.number)
    assert len(cloud.machines()) == 2 and not {*number} & {*cloud.machines()}, "R9.10"
    assert cloud.away() == contents[second.number]
    cloud.failovers().act("app1", "commit")
    with pytest.raises(errors.Refused, match=r"R10\.3"):
        cloud.failovers().act("app1", "reverse")
    (cloud.folder / "data.raw").write_bytes(os.urandom(SIZE))  # whatever the old side did meanwhile
    item = cloud.failovers().fail_over("app1", "planned", options=Options())
    assert item.active == "source" and cloud.runs("source")
    assert plainly(cloud.source()) == plainly(contents[second.number])
    assert len(cloud.machines()) == 2, "a cancel would need them"
    item = cloud.failovers().act("app1", "commit")
    assert (item.state, item.active) == (State.FAILED_OVER, "source")
    assert cloud.machines() == [], "R10.6"
    item = cloud.failovers().act("app1", "reverse")
    assert (item.state, item.direction) == (State.RESYNCHRONIZING, "forward")
    made = cloud.cycle(write=False)
    assert cloud.contents(made) == cloud.source()


def test_what_a_test_or_a_cancelled_failover_made_goes(cloud: Cloud) -> None:
    """R9.3, R9.10. A machine that somebody made of the definition is his to delete, and is waited for."""
    cloud.cycle()
    cloud.tests().test("app1")
    placed = cloud.item.test.there if cloud.item.test else None
    assert placed is not None and plainly(cloud.images(placed)) == plainly(cloud.source())
    assert len(cloud.machines()) == 2
    cloud.failovers().fail_over("app1", "unplanned")
    assert len(cloud.machines()) == 4
    cloud.tests().cleanup("app1")
    left = cloud.machines()
    assert len(left) == 2
    machine = BlobLeaseClient(cloud.container.get_blob_client(left[1]))
    machine.acquire(lease_duration=-1)
    with pytest.raises(errors.Busy, match="a machine in Azure has it; delete that machine there, and keep its disks"):
        cloud.failovers().act("app1", "cancel")
    assert cloud.item.failover is not None and cloud.item.failover.phase == "cancelling"
    machine.release()
    cloud.failovers().act("app1", "cancel")
    assert cloud.machines() == [] and cloud.item.state is State.REPLICATING
    cloud.cycle()


def test_it_does_not_come_home_beside_a_machine_that_has_its_disks(cloud: Cloud) -> None:
    """R9.6: what that one writes meanwhile would be lost."""
    cloud.cycle()
    cloud.failovers().fail_over("app1", "unplanned")
    cloud.failovers().act("app1", "commit")
    machine = BlobLeaseClient(cloud.container.get_blob_client(cloud.machines()[0]))
    machine.acquire(lease_duration=-1)
    with pytest.raises(errors.Refused, match=r"R9\.6: whether 'app1' runs at Azure is not known: a machine there has"):
        cloud.failovers().fail_over("app1", "failback")
    assert cloud.item.failover is None and len(cloud.machines()) == 2, "they are what it runs from"
    machine.release()
    cloud.failovers().fail_over("app1", "failback")
