"""Each row of the matrix and each prerequisite: the samples pass, and an edited one fails, by the rule's number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import samples

from secondsite.orchestration.scenarios import rows
from secondsite.orchestration.scenarios.check import CHECKS, check
from secondsite.orchestration.scenarios.matrix import SCENARIOS, load

Edit = tuple[str, str]
# (rule, the row of the matrix or "" for what is in none, sample, edits, part of the message)
ROWS: list[tuple[str, str, str, tuple[Edit, ...], str]] = [
    ("SEED", "data", "S5",
     (('site = "leeds"\nagent', 'site = "london"\nagent'),), "no host that replicas could lie on"),
    ("R12.14", "replication", "S2", (("delete_replica = true", "encrypt = true"),), "encryption of stored data"),
    ("R12.15", "replication", "S2", (('limit = "mon-fri 08:00-18:00 10M"', 'limit = "fast"'),), "fast"),
    ("R12.15", "replication", "S2", (('limit = "mon-fri 08:00-18:00 10M"', 'limit = "@/etc/passwd"'),), "no file"),
    ("R5.1", "replication", "S4", (("hours = 12", 'hours = 12\ninitial = "media"'),), "by media does not exist"),
    ("R5.1", "replication", "S1", (("hours = 24", 'hours = 24\ninitial = "existing"'),), "by existing does not"),
    ("R12.10", "machine-storage", "S2", (('format = "vhdx"', 'format = "vmdk"'),), "is a vmdk"),
    ("R12.11", "account", "S4", (('"RAGRS"', '"LRS"'),), "has LRS"),
    ("R12.11", "account", "S1", (('"GRS"', '"ZRS"'),), "has ZRS"),
    ("R12.11", "account", "S1", (('region = "westeurope"', 'region = "East US"'),), "is in East US"),
    ("R12.11", "account", "S4", (('subscription = "4f1e"\nredundancy', 'subscription = "9"\nredundancy'),), "another"),
    ("R12.3", "array", "S3", (('peers = ["san-london"]', "peers = []"),), "not each other's peers"),
    ("R12.3", "array", "S3",
     (('site = "leeds"\nserver = "vmm-leeds"\npools', 'site = "leeds"\npools'),), "managed by no"),
    ("SEED", "servers", "S4", (('cloud = "gold"', 'site = "london"'),), "has no host"),
    ("SEED", "servers", "S3", (("cluster = true\n", ""),), "has no cluster"),
    ("SEED", "servers", "S3", (('server = "vmm-leeds"\npools', 'server = "vmm-london"\npools'),), "two management"),
    ("R12.13", "version", "S4", (('"2012 R2"', '"2012 SP1"'),), "not 2012 R2"),
    ("R12.13", "version", "S3", (('"2012 R2 UR5"', '"2012 R2 UR4"'),), "not 2012 R2 UR5"),
    ("R12.13", "version", "S2", (('"2012 SP1"', '"2012"'),), "not 2012 SP1 or 2012 R2"),
    ("SEED", "configuration", "S2", (('server = "vmm-leeds"\nlogical', 'site = "leeds"\nlogical'),), "no VM network"),
    ("SEED", "configuration", "S2",
     (('name = "fast-dr"\nserver = "vmm-leeds"', 'name = "fast-dr"\nserver = "vmm-london"'),),
     "no storage classification"),
    ("SEED", "configuration", "S3", (('pools = ["p1"]\npeers = ["san-london"]', 'peers = ["san-london"]'),), "no pool"),
    ("R12.12", "provider", "S4", (('provider = "3.5.468"', ""),), "Provider is not installed on 'vmm-london'"),
    ("R12.12", "provider", "S2",
     (('version = "2012 SP1"\nprovider = "3.5.468"', 'version = "2012 SP1"'),), "'vmm-leeds'"),
    ("R12.12", "provider", "S1", (('provider = "3.5.468"', ""),), "not installed on host 'hv1'"),
    ("R12.12", "agent", "S1", (('agent = "2.0.8700"', ""),), "agent is not installed on host 'hv1'"),
    ("R12.12", "agent", "S4",
     (('name = "hv2"\ncloud = "gold"\nagent = "2.0.8700"', 'name = "hv2"\ncloud = "gold"'),), "hv2"),
    ("R1.1", "points", "S1", (("copy_frequency = 30", "copy_frequency = 60"),), "a copy each 60 s"),
    ("R1.1", "points", "S4", (('name = "contoso"', 'name = "contoso"\nprofile = "today"'),), "a copy each 900 s"),
    ("R1.1", "points", "S1", (('name = "contoso"', 'name = "contoso"\nprofile = "today"'),
                              ('redundancy = "GRS"', 'redundancy = "GRS"\npremium = true')), "for premium storage"),
    ("R1.1", "points", "S2", (("copy_frequency = 300", "copy_frequency = 30"),
                              ('name = "lds1"', 'name = "lds1"\nversion = "2012"')), "for a host of 2012"),
    ("R2.4", "points", "S1", (("hours = 24", "hours = 25"),), "25 is not in 0 to 24"),
    ("R3.1", "points", "S2", (("additional = 15", "additional = 16"),), "16 is not in 0 to 15"),
    ("R3.1", "points", "S4", (("hours = 12", "additional = 12"),), "does not say what is kept here"),
    ("R2", "points", "S2", (("additional = 15", "hours = 15"),), "does not say what is kept here"),
    ("R2", "points", "S3", (('name = "array"', 'name = "array"\nhours = 2'),), "does not say what is kept here"),
    ("R4.1", "points", "S1", (("application_consistent = 4", "application_consistent = 13"),), "not in 1 to 12"),
    ("R4.2", "points", "S4", (("hours = 12", "hours = 1"),), "not less than the hours kept"),
    ("R4.2", "points", "S2", (("additional = 15", "additional = 4"),), "not less than the additional kept"),
    ("R13.2", "points", "S5", (("every = 1,", "every = 0,"),), "makes no sense"),
    ("R13.2", "points", "S5", (("every = 3600,", "every = 7,"),), "does not follow"),
    ("A1", "points", "S3", (('name = "array"', 'name = "array"\napplication_consistent = 1'),), "not made here"),
    ("R11.1", "network-mapping", "S4", (("azure = true", 'server = "vmm-london"'),), "not of the target side"),
    ("R11.1", "network-mapping", "S2",
     (('server = "vmm-leeds"\nlogical', 'server = "vmm-london"\nlogical'),), "not of"),
    ("A1", "network-mapping", "S1",
     (("[[item]]", '[[mapping.network]]\nsource = "lan"\ntarget = "azure-lan"\n\n[[item]]'),),
     "each item names its network"),
    ("R11.11", "storage-mapping", "S3",
     (('[[mapping.array]]\nsource = "san-london"', '[[mapping.array]]\nsource = "san-leeds"'),),
     "is not mapped to"),
    ("R11.11", "storage-mapping", "S3",
     (('pools = ["p1"]\npeers = ["san-leeds"]', 'pools = ["p1", "p2"]\npeers = ["san-leeds"]'),),
     "pool 'p2'"),
]  # fmt: skip
SIZE = "size = 42949672960"
MEDIUM = 'medium = "/media/seeds"'
BY_COPIES = ('initial = "media"', 'initial = "existing"')
# Recovery plans and consistency groups, put before what follows the sample's first policy.
ITEMS = "[[policy]]"
WEB1 = '[[recovery]]\nname = "p"\n[[recovery.group]]\nmachines = ["web1"]\n'
PLANS: list[tuple[str, str, str, str]] = [
    ("R12.4", "S1", '[[recovery]]\nname = "p"', "has no group"),
    ("R12.4", "S1", '[[recovery]]\nname = "p"\n' + "[[recovery.group]]\n" * 9, "has 9 groups"),
    ("R12.4", "S1", WEB1 + '[[recovery.group]]\nmachines = ["web1"]', "'web1' is in plan 'p' more than once"),
    ("R12.6", "S1", WEB1 + 'after = [{ name = "a", manual = "?" }, { name = "a", manual = "?" }]', "two steps 'a'"),
    ("R12.6", "S1", WEB1 + 'after = [{ name = "a" }]', "is not one of script, manual and http"),
    ("R12.6", "S1", WEB1 + 'after = [{ name = "a", manual = "?", http = "http://h/" }]', "is not one of script"),
    ("R12.6", "S1", WEB1 + 'after = [{ name = "a", http = "ftp://h/" }]', "calls 'ftp://h/'"),
    ("R12.7", "S1", WEB1 + 'before = [{ name = "a", script = ["x"], seconds = 601 }]', "has 601 s"),
    ("R12.7", "S1", WEB1 + 'before = [{ name = "a", script = ["x"], side = "source" }]', "needs a management server"),
    ("R12.9", "S3", '[[recovery]]\nname = "p"\n[[recovery.group]]\nmachines = ["erp1"]', "with its replication group"),
    ("R5.7", "S1", '[[machine]]\nname = "m"\nhost = "hv1"\ndisks = []\n' + WEB1.replace("web1", "m"), "not protected"),
    ("M13", "S1", '[[consistency]]\nname = "a"\nmachines = ["web1"]\n'
     '[[consistency]]\nname = "b"\nmachines = ["web1"]', "is in 2 consistency groups"),
    ("name", "S1", WEB1.replace("web1", "web9"), "there is no machine 'web9'"),
    ("name", "S1", '[[consistency]]\nname = "a"\nmachines = ["web9"]', "there is no machine 'web9'"),
]  # fmt: skip
SERVERS = '    { name = "servers", range = "10.1.0.0/24", pool = ["10.1.0.10", "10.1.0.200"] }'
SUBNETS: list[tuple[str, str]] = [
    (SERVERS.replace('"10.1.0.0/24"', '"10.1.0.9/24"'), "10.1.0.9/24 has host bits set"),
    (SERVERS.replace('"10.1.0.0/24"', '"here"'), "'here' does not appear to be"),
    (SERVERS.replace('"10.1.0.200"', '"10.1.1.200"'), "10.1.0.10 to 10.1.1.200 is not in 10.1.0.0/24"),
    (SERVERS.replace('"10.1.0.200"', '"10.1.0.2"'), "first address is behind its last one"),
    (SERVERS.replace(" }", ', gateway = "fe80::1" }'), "fe80::1 is not in 10.1.0.0/24"),
    (SERVERS.replace(" }", ', gateway = "10.1.0.20" }'), "the gateway 10.1.0.20 is in the pool"),
]  # fmt: skip
CARDS: list[tuple[str, str]] = [
    ('address = "10.1.0.2000"', "'10.1.0.2000' of machine 'app1' is no address"),
    ('target_address = ""', "'' of machine 'app1' is no address"),
    ('mac = "01:00:5e:00:00:01"', "is no address of a network card"),
    ('mac = "52:54:00:00:00:01" }, { mac = "52-54-00-00-00-01"', "have the same card 52:54:00:00:00:01"),
]  # fmt: skip
OTHERS: list[tuple[str, str, tuple[Edit, ...], str]] = [
    ("R1.4", "S2", (("[[item]]", '[[protection]]\nname = "again"\nscenario = "S2"\nsource = "gold"\n'
                     'target = "gold-dr"\npolicy = "five-minutes"\n\n[[item]]'),), "is in 2 pairs"),
    ("R1.8", "S1", (('name = "hv1"\nsite = "rotterdam"\nprovider = "3.5.468"',
                     'name = "hv1"\nsite = "rotterdam"\nprovider = "3.6"'),), "Provider 3."),
    ("R6.6", "S4", (("os = true", "os = true, exclude = true"),), "no disk to protect"),
    ("R6.6", "S1",
     (('os = true, format = "vhdx"', 'os = true, exclude = true, format = "vhdx"'),), "cannot be left out"),
    ("R12.1", "S3", (('group = "erp"\n', ""),), "in no replication group"),
    ("R12.2", "S3", (("replicating = true", "replicating = false"),), "does not replicate yet"),
    ("R12.10", "S4", (('name = "web1"', 'name = "web_1"'), ('"web1"', '"web_1"')), "no name for Azure"),
    ("R12.10", "S4", (('host = "hv1"', 'host = "hv1"\nbits = 32'),), "not of 64 bits"),
    ("R12.10", "S4", (('host = "hv1"', 'host = "hv1"\ngeneration = 2'),), "of generation 2"),
    ("R12.10", "S4", (('host = "hv1"', 'host = "hv1"\niscsi = true'),), "iSCSI"),
    ("R12.10", "S4", (("os = true, ", ""),), "has 0 system disks"),
    ("R12.10", "S4", (("os = true, ", "os = true, shared = true, "),), "is shared"),
    ("R12.10", "S4", ((SIZE, "size = 2199023255552"),), "has 2.0 TiB"),
    ("R12.10", "S4", ((SIZE, "size = 1048576"),), "has 1.0 MiB"),
    ("R12.10", "S4", ((SIZE + " }]", SIZE + " }" + ', { path = "/d" }' * 17 + "]"),), "more than 16 data disks"),
    ("R5.1", "S2", (('initial = "media"\n', ""),), "medium is for a first copy by media"),
    ("R5.2", "S2", (('cluster = true', 'cluster = true\nzone = "Europe/Londn"'),), "no time zone 'Europe/Londn'"),
    ("R5.4", "S2", ((MEDIUM, ""),), "has no medium"),
    ("R5.4", "S2", ((MEDIUM, 'medium = "seeds"'),), "no absolute path"),
    ("R5.5", "S2", ((MEDIUM, 'medium = "/csv/fast/seeds"'),), "beside a disk of the machine"),
    ("R5.5", "S2", ((MEDIUM, 'medium = "/replicas"'),), "where 'lds2' keeps replicas"),
    ("R5.5", "S2", ((MEDIUM, 'medium = "/fast/a/b"'),), "a place of 'fast-dr'"),
    ("R5.6", "S2", (BY_COPIES, (MEDIUM, "")), "names no copies"),
    ("R5.6", "S2", (BY_COPIES, (MEDIUM, 'existing = ["/a"]')), "2 disks to protect, and 1 copies"),
    ("R5.6", "S2", (BY_COPIES, (MEDIUM, 'existing = ["/a", "/a"]')), "named twice"),
    ("R5.6", "S2", (BY_COPIES, (MEDIUM, 'existing = ["/a", "b"]')), "no absolute path"),
    ("R5.6", "S2", (BY_COPIES, (MEDIUM, 'existing = ["/a", "/csv/fast/app1.vhdx"]')), "is the disk itself"),
    ("SEED", "S4", (('source = "gold"', 'source = "london"'),), "is a cloud; 'london' is a site"),
    ("SEED", "S4",
     (('name = "hv2"\ncloud = "gold"', 'name = "hv2"\nsite = "london"'), ('host = "hv1"', 'host = "hv2"')),
     "which is not in cloud 'gold'"),
    *((rule, scenario, ((ITEMS, f"{text}\n{ITEMS}"),), message) for rule, scenario, text, message in PLANS),
    *(("address", "S2", ((SERVERS, text),), message) for text, message in SUBNETS),
    *(("address", "S2", (('address = "10.1.0.20"', text),), message) for text, message in CARDS),
    ("address", "S2", (('"br-prod-dr"', '"br-of-production"'),), "is no name of a bridge"),
    ("name", "S4", (('host = "hv1"', 'host = "hv9"'),), "there is no host 'hv9'"),
    ("name", "S4", (('target = "azure-prod"', 'target = "azure"'),), "there is no network 'azure'"),
    ("name", "S3", (('"san-leeds/p1"', '"san-leeds/p9"'),), "there is no pool 'san-leeds/p9'"),
    ("name", "S2", (('name = "lds2"', 'name = "lds1"'),), "two of the host 'lds1'"),
    ("name", "S2", (("[[policy]]", '[[machine]]\nname = "app2"\nhost = "lon-cluster"\n'
                     'disks = [{ path = "/csv/fast/app1.vhdx" }]\n\n[[policy]]'),
                    ("[[item]]", '[[item]]\nmachine = "app2"\nprotection = "london-to-leeds"\n\n[[item]]')),
     "of machine 'app1' is one of 'app2', too"),
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_sample_passes_every_row(scenario: str) -> None:
    loaded = samples.edited(scenario)
    report = check(loaded.estate)
    assert report.findings == []
    assert [judged.row.id for judged in report.judged] == list(CHECKS)
    assert {judged.pair.protection.scenario for judged in report.judged} == {scenario}


@pytest.mark.parametrize(("rule", "row", "scenario", "edits", "message"), ROWS, ids=[f"{r[0]}-{r[1]}" for r in ROWS])
def test_a_row_that_fails(rule: str, row: str, scenario: str, edits: tuple[Edit, ...], message: str) -> None:
    loaded = samples.edited(scenario, *edits)
    judged = {one.row.id: one.findings for one in check(loaded.estate).judged}
    found = [one for one in judged[row] if one.rule == rule and message in one.message]
    assert found, judged
    assert loaded.line(found[0].where), "a finding names its line"


@pytest.mark.parametrize(("rule", "scenario", "edits", "message"), OTHERS, ids=[f"{r[0]}-{r[1]}" for r in OTHERS])
def test_a_rule_of_no_row_that_fails(rule: str, scenario: str, edits: tuple[Edit, ...], message: str) -> None:
    loaded = samples.edited(scenario, *edits)
    found = [one for one in check(loaded.estate).others if one.rule == rule and message in one.message]
    assert found, check(loaded.estate).findings
    assert loaded.line(found[0].where)


def test_a_first_copy_from_copies_that_lie_at_the_target_passes() -> None:
    """R5.6, with a zone for R5.2; the sample itself has one by medium, R5.4 and R5.5."""
    copies = (MEDIUM, 'existing = ["/old/a", "/old/b"]')
    edits = [BY_COPIES, copies, ("cluster = true", 'cluster = true\nzone = "Europe/London"')]
    assert check(samples.edited("S2", *edits).estate).findings == []


def test_every_row_of_the_matrix_can_fail_but_the_one_that_cannot() -> None:
    """A vault is what makes a file an estate."""
    assert {row.id for row in load().row} - {row[1] for row in ROWS} == {"vault"}


def test_plans_and_consistency_groups_pass() -> None:
    """R12.4 to R12.9: S2's script on the source's side has a management server to run on."""
    text = WEB1.replace("web1", "app1") + 'before = [{ name = "a", script = ["x"], side = "source" }]\n'
    text += 'after = [{ name = "b", manual = "look" }, { name = "c", http = "https://h/", kinds = ["test"] }]\n'
    text += '[[consistency]]\nname = "g"\nmachines = ["app1"]\n'
    assert check(samples.edited("S2", (ITEMS, text + ITEMS)).estate).findings == []


def test_a_plan_has_at_most_100_machines() -> None:
    """R12.8."""
    names = [f"m{number}" for number in range(101)]
    machines = "".join(f'[[machine]]\nname = "{one}"\nhost = "hv1"\ndisks = [{{ path = "/{one}" }}]\n' for one in names)
    text = f'[[recovery]]\nname = "p"\n[[recovery.group]]\nmachines = {names}\n'
    found = check(samples.edited("S1", (ITEMS, machines + text + ITEMS)).estate).findings
    assert "R12.8: plan 'p' has 101 machines (at most 100)" in [one.line(None) for one in found]


def test_a_generation_2_machine_is_for_todays_profile() -> None:
    """R12.10: from April 2015 on."""
    edits = [
        ('name = "contoso"', 'name = "contoso"\nprofile = "today"'), ("copy_frequency = 900", "copy_frequency = 300"),
        ('host = "hv1"', 'host = "hv1"\ngeneration = 2'),
    ]  # fmt: skip
    assert check(samples.edited("S4", *edits).estate).findings == []
    large = samples.edited("S4", *edits, (SIZE, "size = 400000000000"))
    assert [one.rule for one in check(large.estate).findings] == ["R12.10"]


def test_no_code_asks_for_a_scenario_by_name() -> None:
    """D12: scenarios are data."""
    folder = Path(rows.__file__).parent
    for path in folder.glob("*.py"):
        code = path.read_text().replace('SCENARIOS: tuple[ScenarioName, ...] = ("S1", "S2", "S3", "S4", "S5")', "")
        assert not re.search(r"""["']S[1-5]["']""", code), path.name
