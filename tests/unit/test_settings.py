from pathlib import Path

import pytest
from pydantic import ValidationError

from routet2i.errors import UsageError
from routet2i.log import redactor
from routet2i.settings import Settings


def test_the_default_is_sqlite_in_the_home_and_the_packaged_pair(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.database == f"sqlite+pysqlite:///{tmp_path}/.routet2i/routet2i.db"
    assert settings.pictures == tmp_path / ".routet2i" / "images"
    assert settings.read_tiers().edge == "edge"
    assert len(settings.read_metrics().names) == 11


def test_the_environment_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTET2I_DATABASE_URL", "postgresql+psycopg://me:secret@host/db?sslmode=verify-full")
    monkeypatch.setenv("ROUTET2I_LEASE_SECONDS", "3")
    monkeypatch.setenv("ROUTET2I_FAKE_MODELS", "1")
    settings = Settings()
    assert settings.database == "postgresql+psycopg://me:secret@host/db?sslmode=verify-full"
    assert settings.lease_seconds == 3
    assert settings.fake_models


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # Given a variable that compose passes on empty, since nobody has filled it in
    monkeypatch.setenv(f"ROUTET2I_{name.upper()}", "")
    # Then its default holds
    settings = Settings()
    assert settings == Settings.model_construct()
    assert settings.read_tiers().edge == "edge"


def test_a_secret_is_not_in_the_representation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTET2I_BROKER_URL", "redis://:canary@host")
    settings = Settings()
    assert "canary" not in repr(settings)
    assert "canary" not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("name", "value"),
    [("LEASE_SECONDS", "0"), ("WINDOW_JOBS", "many"), ("DEPLOYMENT", "a b"), ("LOG_FORMAT", "xml")],
)
def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"ROUTET2I_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_a_key_is_found_by_its_tier_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTET2I_API_KEYS", '{"cloud": "sk-canary", "other": ""}')
    settings = Settings()
    assert settings.api_key("cloud").get_secret_value() == "sk-canary"
    assert "canary" not in repr((settings, settings.api_key("cloud")))
    assert settings.child_environment(defaults={})["ROUTET2I_API_KEYS"].startswith('{"cloud"')
    event = {"event": "bad sk-canary", "all": '{"cloud": "sk-canary", "other": ""}'}
    assert "canary" not in str(redactor(settings)(None, "info", event))
    for tier in ("other", "fog"):
        with pytest.raises(UsageError, match="no key for tier"):
            settings.api_key(tier)


@pytest.mark.parametrize(
    "value", ["sk-canary", '["sk-canary"]', '{"cloud": 7}', '{"cloud": "sk canary"}', "{"]
)
def test_keys_of_another_form_are_refused_without_showing_them(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ROUTET2I_API_KEYS", value)
    with pytest.raises(UsageError) as refusal:
        Settings().api_key("cloud")
    assert "canary" not in str(refusal.value)
    assert "canary" not in str(redactor(Settings())(None, "info", {"event": value})["event"])


def test_an_empty_variable_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTET2I_API_KEYS", "")
    with pytest.raises(UsageError, match="no key for tier"):
        Settings().api_key("cloud")
