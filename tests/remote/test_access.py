"""Registration keys, permissions and revocation, each tried from the wrong side too."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from secondsite.engine import errors
from secondsite.engine.remote.trust import access, identity
from secondsite.engine.remote.trust.identity import Identity

DAY = 24 * 3600


@pytest.fixture(scope="module")
def west(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return identity.create(tmp_path_factory.mktemp("west"))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return tmp_path / "peers.json"


def paired(book: Path, who: Identity) -> None:
    access.register(book, access.give_key(book, ["vm"]), "west", who.certificate)


def test_a_key_pairs_its_user_with_what_it_was_made_for(book: Path, west: Identity) -> None:
    paired(book, west)
    access.require(access.load(book), west.pin, "send", "vm")
    assert stat.S_IMODE(book.stat().st_mode) == 0o600 and access.load(book).keys == []


def test_the_file_does_not_hold_the_key(book: Path) -> None:
    assert access.give_key(book, ["vm"]) not in book.read_text()


def test_a_key_that_was_used_is_refused(book: Path, west: Identity, tmp_path: Path) -> None:
    secret = access.give_key(book, ["vm"])
    access.register(book, secret, "west", west.certificate)
    with pytest.raises(errors.Refused, match="was used"):
        access.register(book, secret, "east", identity.create(tmp_path / "east").certificate)
    assert list(access.load(book).peers) == [west.pin]


def test_of_many_who_use_one_key_at_once_one_is_paired(book: Path, west: Identity, tmp_path: Path) -> None:
    secret = access.give_key(book, ["vm"])
    certificates = [identity.create(tmp_path / str(n)).certificate for n in range(6)]
    refused: list[str] = []

    def use(number: int) -> None:
        try:
            access.register(book, secret, f"host{number}", certificates[number])
        except errors.Refused as error:
            refused.append(str(error))

    threads = [threading.Thread(target=use, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(refused) == 5 and len(access.load(book).peers) == 1


def test_a_key_holds_five_days(book: Path, west: Identity) -> None:
    secret = access.give_key(book, ["vm"], ["send"], now=0)
    with pytest.raises(errors.Refused, match="five days"):
        access.register(book, secret, "west", west.certificate, now=5 * DAY)
    access.register(book, secret, "west", west.certificate, now=5 * DAY - 1)


@pytest.mark.parametrize("secret", ["", "guess", "é\ud800", "a" * 100000])
def test_a_wrong_key_is_refused_and_uses_up_none(book: Path, west: Identity, secret: str) -> None:
    right = access.give_key(book, ["vm"])
    with pytest.raises(errors.Refused, match="wrong"):
        access.register(book, secret, "west", west.certificate)
    access.register(book, right, "west", west.certificate)


@pytest.mark.parametrize("name", ["..", "a/b", "", "a\0", "-x"])
def test_a_hostile_name_is_refused(book: Path, west: Identity, name: str) -> None:
    with pytest.raises(errors.Refused, match="is no name"):
        access.register(book, access.give_key(book, ["vm"]), name, west.certificate)
    with pytest.raises(errors.Refused, match="is no name"):
        access.give_key(book, [name], ["send"])
    assert access.load(book).peers == {}


@pytest.mark.parametrize(("action", "replica"), [("read", "vm"), ("administer", "vm"), ("send", "other")])
def test_what_was_not_allowed_is_refused(book: Path, west: Identity, action: access.Action, replica: str) -> None:
    paired(book, west)
    with pytest.raises(errors.Refused, match=f"west may not {action} {replica}"):
        access.require(access.load(book), west.pin, action, replica)


def test_who_was_revoked_may_nothing_and_can_be_paired_again(book: Path, west: Identity) -> None:
    paired(book, west)
    access.revoke(book, "west")
    with pytest.raises(errors.Refused, match="not paired"):
        access.require(access.load(book), west.pin, "send", "vm")
    with pytest.raises(errors.Refused, match="not paired"):
        access.revoke(book, "west")
    paired(book, west)


def test_a_second_host_of_the_same_name_is_refused(book: Path, west: Identity, tmp_path: Path) -> None:
    paired(book, west)
    with pytest.raises(errors.Refused, match="paired as west"):
        paired(book, identity.create(tmp_path / "double"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version":2}', '{"peers":{"a":{}}}', '{"keys":[{"digest":1}]}', '{"more":1}']
)
def test_a_damaged_file_lets_nobody_in_and_is_not_overwritten(book: Path, text: str) -> None:
    book.write_text(text)
    with pytest.raises(errors.Damaged):
        access.load(book)
    with pytest.raises(errors.Damaged):
        access.give_key(book, ["vm"])
    assert book.read_text() == text
