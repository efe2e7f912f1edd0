"""Settings of one process, read once from `ROUTET2I_*`; the only module that looks at the environment.

It knows names, defaults and ranges. It opens nothing: no database, no broker, no file but the tier and
metric tables.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from routet2i.errors import UsageError
from routet2i.exposure import checked_broker, checked_database
from routet2i.metrics import MetricSet, read_metrics
from routet2i.tiers import Tiers, packaged, read_tiers


def share_cores() -> None:
    """Let OpenMP's threads sleep while they wait; call before torch is imported, later it has no effect.

    By default they spin. With two workers on two cores each spins on the core that the other needs: measured,
    1.1 pictures a second instead of 12.8. An operator's own OMP_WAIT_POLICY stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # noqa: TID251 - sets, for this process


class Settings(BaseSettings):
    """What a deployment may set; each field is `ROUTET2I_<NAME>`, and a command-line flag beats it."""

    model_config = SettingsConfigDict(
        env_prefix="ROUTET2I_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    home: Path = Field(Path(".routet2i"), description="SQLite file, pictures, embedded broker, logs")
    database_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL that names its driver; empty: SQLite in HOME"
    )
    broker_url: SecretStr | None = Field(
        None, description="redis:// or rediss://; empty: the embedded server on loopback"
    )
    private_hosts: str = Field(
        "",
        pattern=r"^[A-Za-z0-9.:_,-]{0,1000}$",
        description="hosts, joined by commas, on a network that is yours alone: reached without TLS",
    )
    deployment: str = Field(
        "default", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="key prefix on a shared broker"
    )
    tiers: Path | None = Field(None, description="tier file (TOML); empty: the packaged pocket pair")
    metrics: Path | None = Field(
        None, description="metric file (TOML); empty: the packaged ten and alignment"
    )
    scorer: str = Field(
        "pocket:clip", description="open_clip model: pocket:clip, a folder, or hf-hub:OWNER/NAME@COMMIT"
    )
    predictor: str = Field(
        "live",
        description="live (the promoted version, else the tier file's), pocket, cold_start, noun_count, "
        "prompt_length, random, constant, a folder, or a version or name of the registry",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:0; beats the tier file")
    tier: str | None = Field(None, description="the tier that a worker process serves")
    api_keys: SecretStr | None = Field(
        None, description='keys of paid providers by tier, a JSON object: {"cloud": "sk-..."}'
    )
    window_jobs: int = Field(512, ge=1, le=100_000, description="most jobs in one decision window")
    window_seconds: float = Field(
        1.0,
        gt=0,
        le=86_400,
        description="longest wait of a job for its window to close; a full window closes at once",
    )
    window_target_seconds: float = Field(
        5.0,
        gt=0,
        le=86_400,
        description="time a window may take from opening to commit; longer ones make the next smaller",
    )
    budget_micro_usd: int | None = Field(
        None, ge=0, le=10**15, description="limit per period for the whole deployment"
    )
    budget_period_seconds: int = Field(3600, ge=1, le=366 * 86_400, description="length of that period")
    shadow_share: float = Field(
        0.0, ge=0, le=1, description="share of jobs that both tiers draw, to watch and train the predictor"
    )
    shadow_budget_micro_usd: int = Field(
        1_000_000,
        ge=0,
        le=10**15,
        description="limit per period for those second pictures; users' budgets pay none",
    )
    microbatch_jobs: int = Field(16, ge=1, le=4096, description="most jobs one Celery message names")
    sent_per_slot: int = Field(3, ge=1, le=1000, description="messages in flight per live worker")
    lease_seconds: float = Field(45.0, ge=1, le=86_400, description="life of a claim without renewal")
    resend_seconds: float = Field(
        30.0, ge=0.5, le=86_400, description="silence before a message is sent again"
    )
    max_deaths: int = Field(4, ge=1, le=1000, description="workers one job may kill before it is poison")
    queue_jobs: int = Field(
        1_000_000,
        ge=1,
        description="most jobs that may wait for a window; a file that does not fit is refused",
    )
    client_queue_jobs: int | None = Field(
        None, ge=1, description="the same for the jobs of one client; empty: no limit of its own"
    )
    api_requests_per_minute: int | None = Field(
        None, ge=1, description="most requests of one key to one HTTP process; empty: no limit"
    )
    public_url: str = Field(
        "",
        pattern=r"^(https?://[A-Za-z0-9.:_\[\]-]{1,300}(/[A-Za-z0-9._~/-]{0,300})?)?$",
        description="address under which clients reach the HTTP interface, for links in answers; empty: as "
        "each request names it",
    )
    flower_url: str = Field(
        "",
        pattern=r"^(https?://[^\s@]{1,1000})?$",
        description="address of Flower that the pages link to; empty: that of the stack in HOME",
    )
    max_line_bytes: int = Field(
        65_536, ge=64, le=1 << 24, description="longest accepted line of a prompt file"
    )
    max_file_bytes: int = Field(4_000_000_000, ge=64, le=10**12, description="longest accepted prompt file")
    client_file_bytes: int | None = Field(
        None, ge=64, description="most bytes of all uploaded files of one client; empty: no limit"
    )
    max_file_lines: int = Field(10_000_000, ge=1, le=10**9, description="most lines of a prompt file")
    max_prompt_chars: int = Field(2000, ge=1, le=1 << 20, description="longest accepted prompt")
    log_format: Literal["text", "json"] = Field("text", description="json in containers")
    traces_url: str = Field(
        "",
        max_length=1000,
        description="OpenTelemetry collector that is sent traces (OTLP over HTTP); empty: none are made",
    )
    fake_models: bool = Field(False, description="deterministic fakes instead of any model (tests, bench)")
    fake_pictures: Literal["distinct", "same"] = Field(
        "distinct", description="what the fakes draw: a picture per prompt and seed, or one and the same"
    )
    testing: bool = Field(False, description="allows what only tests may do: failpoints")
    failpoint: str | None = Field(
        None, description="NAME:N, the process dies at the N-th pass of a place (tests)"
    )

    @field_validator("failpoint")
    @classmethod
    def _only_for_tests(cls, failpoint: str | None, info: ValidationInfo) -> str | None:
        if failpoint is not None and not info.data.get("testing"):
            raise ValueError("it kills this process, so it is refused unless ROUTET2I_TESTING=1")
        return failpoint

    @property
    def database(self) -> str:
        """Return the database URL, with its secret: never log it; raises UsageError if it lies open."""
        if self.database_url is not None:
            return checked_database(self.database_url.get_secret_value(), private_hosts=self.private_names)
        return f"sqlite+pysqlite:///{self._file}"

    @property
    def broker(self) -> str | None:
        """Return the broker URL, with its secret, None without one; raises UsageError if it lies open."""
        if self.broker_url is None:
            return None
        return checked_broker(self.broker_url.get_secret_value(), private_hosts=self.private_names)

    @property
    def private_names(self) -> list[str]:
        """Return the hosts of `private_hosts`."""
        return [host for host in self.private_hosts.split(",") if host]

    @property
    def has_database(self) -> bool:
        """Return False while no database is named and this home has no file of one yet."""
        return self.database_url is not None or self._file.exists()

    @property
    def _file(self) -> Path:
        file = self.home.resolve() / "routet2i.db"
        if "?" in str(file) or not str(file).isprintable():
            raise UsageError(f"{str(file)!r} holds a sign that no database address can; choose another home")
        return file

    @property
    def pictures(self) -> Path:
        """Return the folder of the content-addressed picture store."""
        return self.home.resolve() / "images"

    @property
    def files(self) -> Path:
        """Return the folder of what was uploaded over HTTP."""
        return self.home.resolve() / "files"

    def api_key(self, tier: str) -> SecretStr:
        """Return the key that a tier's provider wants.

        Raises:
            UsageError: there is none, or the setting is no JSON object of texts; the text tells no key.
        """
        text = (self.api_keys.get_secret_value() if self.api_keys is not None else "") or "{}"
        try:
            keys = json.loads(text)
        except ValueError:
            keys = None
        if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
            raise UsageError('ROUTET2I_API_KEYS is no JSON object of texts; write {"TIER": "KEY"}')
        if not keys.get(tier):
            raise UsageError(f'no key for tier {tier!r}; export ROUTET2I_API_KEYS=\'{{"{tier}": "KEY"}}\'')
        if not re.fullmatch(r"[\x21-\x7e]+", keys[tier]):
            raise UsageError(f"the key of tier {tier!r} has signs that no HTTP header can carry")
        return SecretStr(keys[tier])

    def read_metrics(self) -> MetricSet:
        """Return the deployment's metrics; raises MetricError."""
        return read_metrics(self.metrics or packaged("metrics"))

    def read_tiers(self) -> Tiers:
        """Return the deployment's tiers; raises TierError."""
        return read_tiers(self.tiers or packaged("pocket"))

    def with_changes(self, **fields: Any) -> "Settings":
        """Return these settings with some fields changed; the changed ones count as set by the user."""
        return self.model_copy(update=fields)

    def child_environment(self, *, defaults: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a child process that reads exactly these settings; it holds secrets.

        Args:
            defaults: variables of other programs, used where the user has not set them (OMP_NUM_THREADS).
        """
        chosen = {name: getattr(self, name) for name in self.model_fields_set | {"home"}}
        own = {
            f"ROUTET2I_{name.upper()}": _as_text(value) for name, value in chosen.items() if value is not None
        }
        return {**defaults, **os.environ, **own}  # noqa: TID251 - this is the one reader


def _as_text(value: Any) -> str:
    """Return a value as the environment holds it; paths become absolute, for the child may live elsewhere."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value.resolve() if isinstance(value, Path) else value)
