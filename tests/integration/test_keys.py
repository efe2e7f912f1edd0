"""Keys of the HTTP interface, on both databases."""

import pytest

from db.keys import PREFIX, Role, digest, new_secret
from routet2i.errors import NotFound


def test_a_key_is_found_by_its_hash_and_stands_nowhere(repository, shop):
    # Given a key
    secret = new_secret()
    assert secret.startswith(PREFIX)
    key_id = repository.add_key(secret, client="ann", role=Role.SUBMITTER, name="laptop")
    # When it is looked for by its hash
    found = repository.find_key(digest(secret))
    # Then it is there with its role, and the table has no more of it than how it begins
    assert (found.id, found.client, found.role, found.name) == (key_id, "ann", Role.SUBMITTER, "laptop")
    assert secret.startswith(found.shown)
    assert len(found.shown) < len(secret) / 2
    assert repository.find_key(digest(secret + "x")) is None


def test_the_same_key_is_written_once(repository):
    secret = new_secret()
    first = repository.add_key(secret, client="ann", role=Role.ADMIN, name="")
    assert repository.add_key(secret, client="bob", role=Role.ADMIN, name="") == first
    assert len(repository.api_keys()) == 1


def test_a_revoked_key_lets_nobody_in(repository):
    secret = new_secret()
    key_id = repository.add_key(secret, client="ann", role=Role.AUDITOR, name="")
    assert repository.revoke_key(key_id)
    assert repository.find_key(digest(secret)) is None
    assert not repository.revoke_key(key_id)
    with pytest.raises(NotFound, match="key list"):
        repository.revoke_key("nobody")


def test_a_key_that_has_expired_lets_nobody_in(repository, shop):
    secret = new_secret()
    repository.add_key(secret, client="ann", role=Role.SUBMITTER, name="", seconds=60)
    assert repository.find_key(digest(secret)) is not None
    shop.change("UPDATE api_key SET expires_ms = expires_ms - 61000")
    assert repository.find_key(digest(secret)) is None


def test_a_key_says_about_when_it_was_used_last(repository, shop):
    secret = new_secret()
    repository.add_key(secret, client="ann", role=Role.SUBMITTER, name="")
    assert repository.api_keys()[0].used_ms is None
    repository.find_key(digest(secret))
    first = repository.api_keys()[0].used_ms
    assert first is not None
    # Within a minute it is not written again, so that a busy client costs no writes
    repository.find_key(digest(secret))
    assert repository.api_keys()[0].used_ms == first
    shop.change("UPDATE api_key SET used_ms = used_ms - 61000")
    repository.find_key(digest(secret))
    assert repository.api_keys()[0].used_ms >= first
