"""Settings of one process, read once from `ROUTET2I_*`; the only module that looks at the environment.

It knows names, defaults and ranges. It opens nothing: no database, no broker, no file but the tier table.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from routet2i.tiers import Tiers, packaged, read_tiers


class Settings(BaseSettings):
    """What a deployment may set; each field is `ROUTET2I_<NAME>`, and a command-line flag beats it."""

    model_config = SettingsConfigDict(env_prefix="ROUTET2I_", frozen=True, extra="ignore")

    home: Path = Field(Path(".routet2i"), description="SQLite file, pictures, embedded broker, logs")
    database_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL that names its driver; empty: SQLite in HOME"
    )
    broker_url: SecretStr | None = Field(
        None, description="redis:// or rediss://; empty: the embedded server on loopback"
    )
    deployment: str = Field(
        "default", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="key prefix on a shared broker"
    )
    tiers: Path | None = Field(None, description="tier file (TOML); empty: the packaged pocket pair")
    metrics: Path | None = Field(None, description="metric file (TOML); empty: the packaged ten and alignment")
    predictor: str = Field(
        "noun_count", description="noun_count, prompt_length, random, constant, or a folder"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:0; beats the tier file")
    tier: str | None = Field(None, description="the tier that a worker process serves")
    window_jobs: int = Field(512, ge=1, le=100_000, description="most jobs in one decision window")
    window_seconds: float = Field(1.0, gt=0, description="pace of decision windows")
    budget_micro_usd: int | None = Field(None, ge=0, description="limit per period for the whole deployment")
    budget_period_seconds: int = Field(3600, ge=1, description="length of that period")
    microbatch_jobs: int = Field(16, ge=1, le=4096, description="most jobs one Celery message names")
    sent_per_slot: int = Field(3, ge=1, le=1000, description="messages in flight per live worker")
    lease_seconds: float = Field(45.0, ge=1, description="life of a claim without renewal")
    resend_seconds: float = Field(30.0, ge=0.5, description="silence before a message is sent again")
    max_deaths: int = Field(4, ge=1, description="workers one job may kill before it is poison")
    max_line_bytes: int = Field(65_536, ge=64, description="longest accepted line of a prompt file")
    max_prompt_chars: int = Field(2000, ge=1, description="longest accepted prompt")
    log_format: Literal["text", "json"] = Field("text", description="json in containers")
    fake_models: bool = Field(False, description="deterministic fakes instead of any model (tests, bench)")

    @property
    def database(self) -> str:
        """Return the database URL, with its secret: never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite+pysqlite:///{self.home.resolve() / 'routet2i.db'}"

    @property
    def pictures(self) -> Path:
        """Return the folder of the content-addressed picture store."""
        return self.home.resolve() / "images"

    def read_tiers(self) -> Tiers:
        """Return the deployment's tiers; raises TierError."""
        return read_tiers(self.tiers or packaged("pocket"))
