"""The tables: names, types, keys, limits. One comment per column.

It knows no statement and no transaction (`db.repository` and its modules), no view and no trigger
(`db/migrations`). Ids are UUID text, money is integer micro-USD, times are integer milliseconds since 1970 by
the database's own clock.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_1_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

BIG_KEY = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only a key of type INTEGER

preview = Table(
    "preview",
    metadata,
    Column("id", Text, primary_key=True),
    Column("file_sha256", Text, nullable=False),  # of the bytes that were read
    Column("fmt", Text, nullable=False),  # they were read as
    Column("predictor_name", Text, nullable=False),
    Column("predictor_version", Text, nullable=False),
    Column("budget_micro_usd", BigInteger),  # that was asked for; NULL = no limit
    Column("jobs", Integer, nullable=False),  # lines it has once all are written
    Column("micro_usd", BigInteger, nullable=False),  # of all of them
    Column("created_ms", BigInteger, nullable=False),
    CheckConstraint("micro_usd >= 0", name="amount"),
)

preview_line = Table(
    "preview_line",
    metadata,
    Column("preview_id", Text, ForeignKey("preview.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),  # line of the user's file
    Column("tier", Text, nullable=False),  # this and the rest: the assignment of the job it becomes
    Column("reason", Text, nullable=False),  # a code of scheduler.allocator.REASONS
    Column("prs", Float, nullable=False),  # predicted superiority of edge over cloud, [0, 1]
    Column("threshold", Float, nullable=False),  # below it a job goes to the cloud
    Column("micro_usd", BigInteger, nullable=False),  # for all its pictures
    Column("scores", Text, nullable=False),  # JSON, tier -> metric -> predicted [0, 1]
    CheckConstraint("micro_usd >= 0", name="amount"),
    sqlite_with_rowid=False,
)

batch = Table(
    "batch",
    metadata,
    Column("id", Text, primary_key=True),
    Column("client", Text, nullable=False),  # whose it is
    Column("idem_key", Text, nullable=False),  # the submission's key: the same key is the same batch
    Column("body_sha256", Text, nullable=False),  # of what was submitted under that key
    Column("name", Text, nullable=False),  # for people
    Column("state", Text, nullable=False),  # ingesting, open, cancelled
    Column("n_accepted", Integer, nullable=False),  # lines that became jobs
    Column("n_rejected", Integer, nullable=False),  # lines that did not
    Column("cursor_line", Integer, nullable=False),  # last line whose fate is committed
    Column("created_ms", BigInteger, nullable=False),
    Column("preview_id", Text, ForeignKey("preview.id")),  # that decided its jobs; NULL = windows do
    Column("announced", Integer, nullable=False, server_default="0"),  # while it is read: jobs its file has
    Column("retry_of", Text, ForeignKey("batch.id")),  # whose jobs it repeats; NULL = a file's own
    UniqueConstraint("client", "idem_key"),
    CheckConstraint("state IN ('ingesting', 'open', 'cancelled')", name="state"),
    Index(  # files that are being read: few beside the batches of years
        "ix_batch_ingesting",
        "client",
        sqlite_where=text("state = 'ingesting'"),
        postgresql_where=text("state = 'ingesting'"),
    ),
    Index(
        "ix_batch_retry_of",
        "retry_of",
        sqlite_where=text("retry_of IS NOT NULL"),
        postgresql_where=text("retry_of IS NOT NULL"),
    ),
    Index(
        "ix_batch_preview",
        "preview_id",
        sqlite_where=text("preview_id IS NOT NULL"),
        postgresql_where=text("preview_id IS NOT NULL"),
    ),
)

client = Table(
    "client",
    metadata,
    Column("name", Text, primary_key=True),  # as its batches name it
    Column("weight", Integer, nullable=False),  # share of a window's places, beside the others' weights
    Column("virtual", BigInteger, nullable=False),  # ticks of virtual time at which its next job starts
    CheckConstraint("weight >= 1", name="weight"),
    sqlite_with_rowid=False,
)

waiting = Table(
    "waiting",
    metadata,
    Column("batch_id", Text, ForeignKey("batch.id"), primary_key=True),
    Column("width", Integer, primary_key=True),  # pixels; 0 = the tier's own
    Column("height", Integer, primary_key=True),
    Column("tier", Text, primary_key=True),  # that must draw them; empty = any
    Column("jobs", BigInteger, nullable=False),  # queued
    Column("pictures", BigInteger, nullable=False),  # wanted by them
    CheckConstraint("jobs >= 0 AND pictures >= jobs", name="amounts"),
    sqlite_with_rowid=False,
)

arrivals = Table(
    "arrivals",
    metadata,
    Column("client", Text, primary_key=True),  # whose jobs came
    Column("slot_ms", BigInteger, primary_key=True),  # when it began, milliseconds since 1970
    Column("jobs", BigInteger, nullable=False),  # submitted in it
    Column("pictures", BigInteger, nullable=False),  # wanted by them
    CheckConstraint("jobs >= 0 AND pictures >= jobs", name="amounts"),
    Index("ix_arrivals_slot", "slot_ms"),
    sqlite_with_rowid=False,
)

rejected = Table(
    "rejected",
    metadata,
    Column("batch_id", Text, ForeignKey("batch.id"), primary_key=True),
    Column("line_no", Integer, primary_key=True),  # 1-based
    Column("reason", Text, nullable=False),  # what is wrong, with the value
    Column("remedy", Text, nullable=False),  # what to type instead
    Column("raw_sha256", Text, nullable=False),  # of the line's bytes
    Column("custom_id", Text),  # the line's, where it can be read and echoed
    Column("code", Text),  # for programs: model_not_found; NULL = the line is wrong in another way
)

decision_window = Table(
    "decision_window",
    metadata,
    Column("id", Text, primary_key=True),
    Column("leader_term", BigInteger),  # the leader's term; NULL = decided without an election
    Column("policy", Text, nullable=False),  # the allocator's rule
    Column("predictor_name", Text, nullable=False),
    Column("predictor_version", Text, nullable=False),
    Column("n_assigned", Integer, nullable=False),  # jobs assigned, fallbacks included
    Column("n_deferred", Integer, nullable=False),  # jobs left queued
    Column("n_fallback", Integer, nullable=False),  # jobs the ledger sent to the fallback tier
    Column("available_micro_usd", BigInteger),  # what it could spend; NULL = unlimited
    Column("solve_us", BigInteger, nullable=False),  # microseconds the decision took
    Column("committed_ms", BigInteger, nullable=False),  # when its decision became permission
    Column("reached", BigInteger, nullable=False, server_default="0"),  # ticks of virtual time served so far
    Index("ix_decision_window_reached", "reached"),
)

budget = Table(
    "budget",
    metadata,
    Column("id", Text, primary_key=True),  # batch:<id>, client:<name>/day ... (BudgetPolicy.budget_id)
    Column("period", Text, primary_key=True),  # total, or the name of a period (routet2i.periods)
    Column("lim", BigInteger),  # never exceeded, carry-over included; NULL = unlimited
    Column("reserved", BigInteger, nullable=False),  # held for assigned jobs
    Column("spent", BigInteger, nullable=False),  # charged, or unknown
    Column("carried", BigInteger, nullable=False, server_default="0"),  # of lim, from the period before
    Column("overrun", BigInteger, nullable=False, server_default="0"),  # charged beyond reservations
    CheckConstraint(
        "reserved >= 0 AND spent >= 0 AND (lim IS NULL OR reserved + spent <= lim)", name="within_limit"
    ),
    CheckConstraint("carried >= 0 AND overrun >= 0", name="beside_limit"),
)

budget_policy = Table(
    "budget_policy",
    metadata,
    Column("id", BIG_KEY, primary_key=True),  # of one scope, name and span the highest one is in force
    Column("scope", Text, nullable=False),  # contracts.Scope
    Column("name", Text, nullable=False),  # a batch's id, a client's or a deployment's name
    Column("span", Text, nullable=False),  # minute, hour, day, month, total
    Column("limit_micro_usd", BigInteger),  # of one period; NULL = no limit any more
    Column("carry", Text, nullable=False),  # contracts.Carry
    Column("cap_micro_usd", BigInteger),  # most that is carried over
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),  # in their words
    Column("at_ms", BigInteger, nullable=False),
    CheckConstraint("scope IN ('batch', 'client', 'deployment')", name="scope"),
    CheckConstraint("carry IN ('none', 'all', 'capped')", name="carry"),
    CheckConstraint("(carry = 'capped') = (cap_micro_usd IS NOT NULL)", name="cap"),
    CheckConstraint("limit_micro_usd >= 0 AND cap_micro_usd >= 0", name="amounts"),
    Index("ix_budget_policy_name", "name", "scope", "span", "id"),
)

microbatch = Table(
    "microbatch",
    metadata,
    Column("id", Text, primary_key=True),
    Column("batch_id", Text, ForeignKey("batch.id"), nullable=False),
    Column("window_id", Text, ForeignKey("decision_window.id"), nullable=False),  # that formed it
    Column("tier", Text, nullable=False),  # whose workers may claim it
    Column("width", Integer, nullable=False),  # pixels
    Column("height", Integer, nullable=False),
    Column("state", Text, nullable=False),  # contracts.MicrobatchState
    Column("fence", Integer, nullable=False),  # grows with every claim and every loss of one
    Column("lease_until_ms", BigInteger),  # end of the current claim; NULL = not claimed
    Column("worker_id", Text),  # of the current or last claim
    Column("sent_at_ms", BigInteger),  # last message
    Column("deliveries", Integer, nullable=False),  # messages so far
    Column("deaths", Integer, nullable=False),  # claims whose worker vanished
    Column("reserved_left", BigInteger, nullable=False),  # of its reservation, neither charged nor released
    Column("parent_id", Text, ForeignKey("microbatch.id")),  # that was split into this one
    Column("created_ms", BigInteger, nullable=False),
    Column("closed_ms", BigInteger),  # when it became final
    CheckConstraint(
        "state IN ('ready', 'sent', 'claimed', 'done', 'split', 'dead', 'cancelled')", name="state"
    ),
    CheckConstraint("reserved_left >= 0", name="reserved_left"),
    CheckConstraint("(state = 'claimed') = (lease_until_ms IS NOT NULL)", name="lease"),
    Index("ix_microbatch_tier_state", "tier", "state", "id"),
    Index("ix_microbatch_batch", "batch_id"),
    Index("ix_microbatch_window", "window_id"),
    Index(
        "ix_microbatch_lease",
        "lease_until_ms",
        sqlite_where=text("state = 'claimed'"),
        postgresql_where=text("state = 'claimed'"),
    ),
    Index(
        "ix_microbatch_sent",
        "sent_at_ms",
        sqlite_where=text("state = 'sent'"),
        postgresql_where=text("state = 'sent'"),
    ),
    Index(
        "ix_microbatch_reserved",
        "state",
        sqlite_where=text("reserved_left > 0"),
        postgresql_where=text("reserved_left > 0"),
    ),
)

job = Table(
    "job",
    metadata,
    Column("id", Text, primary_key=True),
    Column("batch_id", Text, ForeignKey("batch.id"), nullable=False),
    Column("seq", Integer, nullable=False),  # line of the user's file
    Column("custom_id", Text, nullable=False),  # the user's own id; data, never a path
    Column("prompt", Text, nullable=False),  # what is to be drawn
    Column("negative_prompt", Text),  # what is not
    Column("seed", BigInteger, nullable=False),  # of the first picture
    Column("width", Integer),  # pixels; NULL = the tier's own
    Column("height", Integer),
    Column("n", Integer, nullable=False),  # pictures wanted
    Column("priority", Integer, nullable=False),  # higher is sooner among its client's jobs
    Column("metadata", Text),  # the user's JSON object
    Column("not_before_ms", BigInteger, nullable=False),  # no window takes it earlier
    Column("defer_reason", Text),  # why the last window left it queued
    Column("cancel_requested", Integer, nullable=False),  # 1 = its worker must drop it
    Column("state", Text, nullable=False),  # queued, assigned, done (then `outcome` says how)
    Column("microbatch_id", Text, ForeignKey("microbatch.id")),  # that has it now, or had it last
    Column("created_ms", BigInteger, nullable=False),
    Column("shadow_of", Text, ForeignKey("job.id")),  # the user's job it repeats on the other tier
    Column("client", Text, nullable=False, server_default="default"),  # its batch's
    Column("deadline_ms", BigInteger),  # wanted until then; NULL = any time
    Column("jump_ms", BigInteger),  # from then on it goes before jobs without haste
    Column(  # the job that it repeats: without success, or of another tier
        "retry_of", Text, ForeignKey("job.id")
    ),
    Column("response_format", Text),  # how an API's answer shows its pictures: url, b64_json; NULL = either
    Column("tier", Text),  # that must draw it; NULL = the window chooses
    UniqueConstraint("batch_id", "seq"),
    UniqueConstraint("batch_id", "custom_id"),
    CheckConstraint("state IN ('queued', 'assigned', 'done')", name="state"),
    CheckConstraint("n >= 1", name="n"),
    Index(
        "ix_job_queue",
        "client",
        text("priority DESC"),
        "batch_id",
        "seq",
        sqlite_where=text("state = 'queued'"),
        postgresql_where=text("state = 'queued'"),
    ),
    Index(
        "ix_job_jump",
        "client",
        "jump_ms",
        text("priority DESC"),
        "batch_id",
        "seq",
        sqlite_where=text("state = 'queued' AND jump_ms IS NOT NULL"),
        postgresql_where=text("state = 'queued' AND jump_ms IS NOT NULL"),
    ),
    Index(
        "ix_job_deferred",
        "not_before_ms",
        sqlite_where=text("state = 'queued' AND not_before_ms > 0"),
        postgresql_where=text("state = 'queued' AND not_before_ms > 0"),
    ),
    Index(
        "ix_job_microbatch",
        "microbatch_id",
        sqlite_where=text("microbatch_id IS NOT NULL"),
        postgresql_where=text("microbatch_id IS NOT NULL"),
    ),
    Index(  # a job has at most one shadow
        "ix_job_shadow_of",
        "shadow_of",
        unique=True,
        sqlite_where=text("shadow_of IS NOT NULL"),
        postgresql_where=text("shadow_of IS NOT NULL"),
    ),
    Index(  # ... and is retried at most once; what fails again is retried in its turn
        "ix_job_retry_of",
        "retry_of",
        unique=True,
        sqlite_where=text("retry_of IS NOT NULL"),
        postgresql_where=text("retry_of IS NOT NULL"),
    ),
)

assignment = Table(
    "assignment",
    metadata,
    Column("job_id", Text, ForeignKey("job.id"), primary_key=True),
    Column("window_id", Text, ForeignKey("decision_window.id"), nullable=False),
    Column("tier", Text, nullable=False),  # the choice
    Column("reason", Text, nullable=False),  # a code of scheduler.allocator.REASONS
    Column("prs", Float, nullable=False),  # predicted superiority of edge over cloud, [0, 1]
    Column("threshold", Float, nullable=False),  # below it a job goes to the cloud
    Column("micro_usd", BigInteger, nullable=False),  # reserved for all its pictures
    Column("scores", Text, nullable=False),  # JSON, tier -> metric -> predicted [0, 1]
    Column("propensity", Float),  # probability of its shadow when it was decided; NULL = it could have none
    sqlite_with_rowid=False,
)

yardstick = Table(
    "yardstick",
    metadata,
    Column("predictor_name", Text, primary_key=True),
    Column("predictor_version", Text, primary_key=True),
    Column("weights", Text, nullable=False),  # JSON, metric -> weight of PRS, sum 1
    Column("spans", Text, nullable=False),  # JSON, metric -> Gamma g: what a measured PRS divides by
    sqlite_with_rowid=False,
)

attempt = Table(
    "attempt",
    metadata,
    Column("job_id", Text, ForeignKey("job.id"), primary_key=True),
    Column("microbatch_id", Text, ForeignKey("microbatch.id"), primary_key=True),
    Column("fence", Integer, primary_key=True),  # of the claim
    Column("worker_id", Text, nullable=False),  # whose claim it was
    Column("started_ms", BigInteger, nullable=False),  # the claim
    Column("ended_ms", BigInteger),  # NULL = running; written once
    Column("error_class", Text),  # NULL = it succeeded, or runs
    Column("error", Text),  # in words
    sqlite_with_rowid=False,
)

outcome = Table(
    "outcome",
    metadata,
    Column("job_id", Text, ForeignKey("job.id"), primary_key=True),
    Column("state", Text, nullable=False),  # succeeded, failed, cancelled
    Column("tier", Text),  # NULL = cancelled before it was assigned
    Column("microbatch_id", Text, ForeignKey("microbatch.id")),
    Column("fence", Integer),  # of the claim that wrote it; NULL = cancelled without a claim
    Column("micro_usd", BigInteger, nullable=False),  # charged
    Column("seconds", Float, nullable=False),  # of the device
    Column("model_id", Text),
    Column("model_revision", Text),
    Column("settings", Text),  # JSON: steps, guidance, dtype, device, versions
    Column("error_class", Text),  # why there is no picture; NULL = there is
    Column("error", Text),  # in words
    Column("at_ms", BigInteger, nullable=False),
    CheckConstraint("state IN ('succeeded', 'failed', 'cancelled')", name="state"),
    CheckConstraint("state = 'cancelled' OR fence IS NOT NULL", name="fence"),
    Index("ix_outcome_at", "at_ms"),
    sqlite_with_rowid=False,
)

picture = Table(
    "picture",
    metadata,
    Column("job_id", Text, ForeignKey("outcome.job_id"), primary_key=True),
    Column("idx", Integer, primary_key=True),  # 0-based among the job's pictures
    Column("sha256", Text, nullable=False),  # of the PNG bytes: its name in the store
    Column("seed", BigInteger, nullable=False),  # it was drawn from
    Column("width", Integer, nullable=False),  # pixels
    Column("height", Integer, nullable=False),
    Column("scores", Text, nullable=False),  # JSON, metric -> measured [0, 1]
    Index("ix_picture_sha256", "sha256"),
    sqlite_with_rowid=False,
)

picture_deletion = Table(
    "picture_deletion",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("idx", Integer, primary_key=True),
    Column("sha256", Text, nullable=False),  # the picture's
    Column("who", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),  # when it was decided
    Column("done_ms", BigInteger),  # when its file was gone, or stayed for another picture's sake
    ForeignKeyConstraint(["job_id", "idx"], ["picture.job_id", "picture.idx"]),
    Index(
        "ix_picture_deletion_open",
        "sha256",
        sqlite_where=text("done_ms IS NULL"),
        postgresql_where=text("done_ms IS NULL"),
    ),
    sqlite_with_rowid=False,
)

call = Table(
    "call",
    metadata,
    Column("id", Text, primary_key=True),
    Column("microbatch_id", Text, ForeignKey("microbatch.id"), nullable=False),  # whose accounts pay it
    Column("job_id", Text, ForeignKey("job.id"), nullable=False),
    Column("idx", Integer, nullable=False),  # 0-based among the job's pictures
    Column("fence", Integer, nullable=False),  # of the claim that asked for it
    Column("provider", Text, nullable=False),  # the tier
    Column("idem_key", Text, nullable=False),  # our key at the provider
    Column("repeatable", Integer, nullable=False),  # 1 = the provider bills a key once, however often sent
    Column("remote_id", Text),  # the provider's name of a picture that it is still drawing
    Column("state", Text, nullable=False),  # contracts.CallState
    Column("cost_max", BigInteger, nullable=False),  # permitted before it was made
    Column("drawn", BigInteger, nullable=False),  # of cost_max, taken from what its microbatch had reserved
    Column("cost_actual", BigInteger),  # billed; NULL = not known
    Column("overrun", BigInteger, nullable=False, server_default="0"),  # of cost_actual, beyond permission
    Column("image_sha256", Text),  # of the stored picture; NULL = none came
    Column("error", Text),  # why no picture came, or why nobody knows
    Column("created_ms", BigInteger, nullable=False),  # when it was permitted
    Column("settled_ms", BigInteger),  # last change of state
    UniqueConstraint("idem_key", name="uq_call_idem_key"),
    CheckConstraint("state IN ('intent', 'charged', 'unknown', 'void')", name="state"),
    CheckConstraint("(state = 'charged') = (cost_actual IS NOT NULL)", name="known"),
    CheckConstraint("cost_max >= 0 AND drawn >= 0 AND drawn <= cost_max", name="permitted"),
    CheckConstraint("cost_actual >= 0 AND overrun >= 0 AND overrun <= cost_actual", name="billed"),
    Index("ix_call_job", "job_id", "idx"),
    Index("ix_call_microbatch", "microbatch_id"),
    Index(
        "ix_call_remote",
        "provider",
        "remote_id",
        sqlite_where=text("remote_id IS NOT NULL"),
        postgresql_where=text("remote_id IS NOT NULL"),
    ),
    Index(
        "ix_call_open",
        "state",
        sqlite_where=text("state IN ('intent', 'unknown')"),
        postgresql_where=text("state IN ('intent', 'unknown')"),
    ),
    Index(
        "ix_call_overrun",
        "provider",
        "settled_ms",
        sqlite_where=text("overrun > 0"),
        postgresql_where=text("overrun > 0"),
    ),
)

resumption = Table(
    "resumption",
    metadata,
    Column("id", BIG_KEY, primary_key=True),
    Column("provider", Text, nullable=False),  # the tier that may buy again: bills seen so far are accepted
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),  # in their words
    Column("at_ms", BigInteger, nullable=False),
    Index("ix_resumption_provider", "provider", "at_ms"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", BIG_KEY, primary_key=True),  # order of posting
    Column("event_id", Text, nullable=False),  # reserve:<microbatch>, settle:<job>, release:<either> ...
    Column("budget_id", Text, nullable=False),  # an event is posted once to each account it concerns
    Column("period", Text, nullable=False),  # of that budget
    Column("kind", Text, nullable=False),  # a key of db.ledger.MOVES
    Column("from_side", Text, nullable=False),  # db.ledger.Side that has less by this
    Column("to_side", Text, nullable=False),  # db.ledger.Side that has more
    Column("micro_usd", BigInteger, nullable=False),  # that moved
    Column("policy_id", BIG_KEY, ForeignKey("budget_policy.id")),  # that granted it
    Column("at_ms", BigInteger, nullable=False),
    ForeignKeyConstraint(["budget_id", "period"], ["budget.id", "budget.period"]),
    UniqueConstraint("event_id", "budget_id", "period", name="uq_ledger_event"),
    Index(  # purchases whose answer was lost: few beside all lines
        "ix_ledger_unknown",
        "budget_id",
        "period",
        sqlite_where=text("from_side = 'unknown' OR to_side = 'unknown'"),
        postgresql_where=text("from_side = 'unknown' OR to_side = 'unknown'"),
    ),
    CheckConstraint("micro_usd >= 0", name="amount"),
    CheckConstraint(
        "(kind = 'grant' AND from_side = 'owner' AND to_side = 'available')"
        " OR (kind = 'grant' AND from_side = 'available' AND to_side = 'owner')"
        " OR (kind = 'reserve' AND from_side = 'available' AND to_side = 'reserved')"
        " OR (kind = 'settle' AND from_side = 'reserved' AND to_side IN ('spent', 'unknown'))"
        " OR (kind = 'release' AND from_side = 'reserved' AND to_side = 'available')"
        " OR (kind = 'adjust' AND from_side = 'unknown' AND to_side IN ('spent', 'available'))"
        " OR (kind = 'carry' AND from_side = 'available' AND to_side = 'carried')"
        " OR (kind = 'carry' AND from_side IN ('carried', 'owner') AND to_side = 'available')"
        " OR (kind = 'overrun' AND from_side = 'owner' AND to_side = 'overrun')",
        name="move",
    ),
)

worker = Table(
    "worker",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tier", Text, nullable=False),  # whose microbatches it takes
    Column("device", Text, nullable=False),  # cpu, cuda:0 ...
    Column("version", Text, nullable=False),  # of this program
    Column("state", Text, nullable=False),  # idle, busy, draining, stopped, lost
    Column("started_ms", BigInteger, nullable=False),
    Column("heartbeat_ms", BigInteger, nullable=False),  # its last sign of life
    Column("fault", Text),  # why it gave its last microbatch back; NULL = it is well
    Column("fault_ms", BigInteger),  # when that was
    CheckConstraint("state IN ('idle', 'busy', 'draining', 'stopped', 'lost')", name="state"),
)

leader = Table(
    "leader",
    metadata,
    Column("name", Text, primary_key=True),  # of the office: scheduler
    Column("holder", Text, nullable=False),  # the process that has it
    Column("term", BigInteger, nullable=False),  # grows with every election
    Column("expires_ms", BigInteger, nullable=False),  # until when, unless it is renewed
)

predictor = Table(
    "predictor",
    metadata,
    Column("version", Text, primary_key=True),  # twelve hex digits of the manifest's hash
    Column("name", Text, nullable=False),  # for people; the newest version of a name is what the name means
    Column("manifest", Text, nullable=False),  # predictor.json, as it was written
    Column("data_sha256", Text, nullable=False),  # of training prompts and scores
    Column("prompts", Integer, nullable=False),  # it was trained on
    Column("figures", Text, nullable=False),  # JSON object: what it is worth
    Column("created_ms", BigInteger, nullable=False),  # when it was registered
    Column("weights", LargeBinary, nullable=False),  # safetensors; last, so that lists need not read over it
    Index("ix_predictor_name", "name", "created_ms"),
)

promotion = Table(
    "promotion",
    metadata,
    Column("id", BIG_KEY, primary_key=True),  # the highest one is live
    Column("version", Text, ForeignKey("predictor.version"), nullable=False),
    Column("who", Text, nullable=False),  # a person, or the name of a policy
    Column("reason", Text, nullable=False),  # in their words
    Column("at_ms", BigInteger, nullable=False),
)

pause = Table(
    "pause",
    metadata,
    Column("kind", Text, primary_key=True),  # client, batch, tier
    Column("name", Text, primary_key=True),  # of the client or the tier; the batch's id
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),  # in their words
    Column("at_ms", BigInteger, nullable=False),
    CheckConstraint("kind IN ('client', 'batch', 'tier')", name="kind"),
    sqlite_with_rowid=False,
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sha256", Text, nullable=False),  # of the key, which stands nowhere
    Column("shown", Text, nullable=False),  # how it begins, so that its owner knows it again
    Column("client", Text, nullable=False),  # whose batches it submits
    Column("role", Text, nullable=False),  # submitter, auditor, admin
    Column("name", Text, nullable=False),  # for people
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),  # NULL = never
    Column("revoked_ms", BigInteger),  # NULL = it is good
    Column("used_ms", BigInteger),  # when it was used last, to about a minute; NULL = never
    Index("ix_api_key_sha256", "sha256", unique=True),
    CheckConstraint("role IN ('submitter', 'auditor', 'admin')", name="role"),
)

file = Table(
    "file",
    metadata,
    Column("id", Text, primary_key=True),  # file-<hex>, growing with time
    Column("client", Text, nullable=False),  # whose it is
    Column("purpose", Text, nullable=False),  # batch: it was uploaded; batch_output: made of rows when read
    Column("filename", Text, nullable=False),  # for people; data, never a path
    Column("bytes", BigInteger, nullable=False),  # of what is made of rows: as it was when its batch ended
    Column("sha256", Text),  # of the bytes: their name in HOME/files; NULL = made of rows
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),  # nobody sees it from then on; NULL = it stays
    Column("deleted_ms", BigInteger),  # NULL = it is there
    Column("removed_ms", BigInteger),  # when its bytes were gone too, or stayed for another file's sake
    CheckConstraint("purpose IN ('batch', 'batch_output')", name="purpose"),
    CheckConstraint("(purpose = 'batch') = (sha256 IS NOT NULL)", name="stored"),
    CheckConstraint("bytes >= 0", name="bytes"),
    Index("ix_file_client", "client", "id"),
    Index(
        "ix_file_sha256",
        "sha256",
        sqlite_where=text("sha256 IS NOT NULL"),
        postgresql_where=text("sha256 IS NOT NULL"),
    ),
    Index(  # whose bytes are still to be removed
        "ix_file_removable",
        "id",
        sqlite_where=text("sha256 IS NOT NULL AND removed_ms IS NULL"),
        postgresql_where=text("sha256 IS NOT NULL AND removed_ms IS NULL"),
    ),
)

api_batch = Table(
    "api_batch",
    metadata,
    Column("id", Text, primary_key=True),  # batch_<hex>, growing with time; the key of its batch
    Column("client", Text, nullable=False),  # whose it is
    Column("idem_key", Text),  # the client's own; NULL = none: each request is another batch
    Column("body_sha256", Text, nullable=False),  # of what was asked under that key
    Column("input_file_id", Text, ForeignKey("file.id"), nullable=False),
    Column("sha256", Text, nullable=False),  # that file's bytes: their name in HOME/files
    Column("endpoint", Text, nullable=False),  # that its lines are for
    Column("completion_window", Text, nullable=False),  # as it was written
    Column("metadata", Text),  # the client's JSON object
    Column("name", Text, nullable=False),  # for people
    Column("budget_micro_usd", BigInteger),  # NULL = no limit
    Column("deadline", Text),  # of lines that name none, as it was written
    Column("priority", Integer, nullable=False),  # of lines that name none
    Column("preview_id", Text),  # that decides its jobs; NULL = windows do
    Column("base_url", Text, nullable=False),  # how its client addresses us: addresses of pictures begin so
    Column("output_seconds", BigInteger),  # life of the files that it leaves; NULL = they stay
    Column("state", Text, nullable=False),  # db.api_batches.State
    Column("ending", Text),  # the state it is being finished for: completed, expired, cancelled
    Column("batch_id", Text, ForeignKey("batch.id")),  # NULL = its file is not read yet
    Column("errors", Text),  # JSON, why it failed: a list of {code, message, line, param}
    Column("total", BigInteger, nullable=False),  # lines of its file, when it was looked at last
    Column("completed", BigInteger, nullable=False),  # of them: pictures are there
    Column("failed", BigInteger, nullable=False),  # of them: refused, or not drawn for a fault
    Column("output_file_id", Text, ForeignKey("file.id")),  # its pictures and answers; NULL = none
    Column("error_file_id", Text, ForeignKey("file.id")),  # lines without pictures; NULL = none
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),  # end of its completion window
    Column("in_progress_ms", BigInteger),  # when its jobs were all there
    Column("finalizing_ms", BigInteger),  # when the last of them had ended
    Column("completed_ms", BigInteger),  # when its files were there
    Column("failed_ms", BigInteger),  # when nothing could be made of its file
    Column("expired_ms", BigInteger),  # when its window had ended and its files were there
    Column("cancelling_ms", BigInteger),  # when it was cancelled
    Column("cancelled_ms", BigInteger),  # when its files were there after that
    Column("look_ms", BigInteger, nullable=False),  # no clerk looks at it before
    UniqueConstraint("client", "idem_key"),
    CheckConstraint(
        "state IN ('validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired', "
        "'cancelling', 'cancelled')",
        name="state",
    ),
    CheckConstraint("ending IN ('completed', 'expired', 'cancelled')", name="ending"),
    Index("ix_api_batch_client", "client", "id"),
    Index("ix_api_batch_batch", "batch_id"),
    Index("ix_api_batch_output", "output_file_id"),
    Index("ix_api_batch_error", "error_file_id"),
    Index("ix_api_batch_sha256", "sha256"),
    Index(  # what clerks look at: few beside the batches of years
        "ix_api_batch_open",
        "look_ms",
        sqlite_where=text("state IN ('validating', 'in_progress', 'finalizing', 'cancelling')"),
        postgresql_where=text("state IN ('validating', 'in_progress', 'finalizing', 'cancelling')"),
    ),
)

sweep_finding = Table(
    "sweep_finding",
    metadata,
    Column("finding", Text, primary_key=True),  # a field of contracts.SweepReport
    Column("total", BigInteger, nullable=False),  # of it in all sweeps so far
    sqlite_with_rowid=False,
)

webhook = Table(
    "webhook",
    metadata,
    Column("id", Text, primary_key=True),
    Column("client", Text, nullable=False),  # whose batches it is about
    Column("batch_id", Text, ForeignKey("batch.id")),  # only this one; NULL = all from now on
    Column("url", Text, nullable=False),  # where it is sent
    Column("events", Text, nullable=False),  # JSON list of contracts.BatchEvent
    Column("name", Text, nullable=False),  # for people
    Column("created_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),  # removed; NULL = in force
    Index("ix_webhook_client", "client", "id"),
)

webhook_secret = Table(  # a table of its own, so that a reader of all others need not be let in
    "webhook_secret",
    metadata,
    Column("webhook_id", Text, ForeignKey("webhook.id"), primary_key=True),
    Column("secret", Text, nullable=False),  # that signs; in clear, for a signature needs it
)

link_secret = Table(  # likewise
    "link_secret",
    metadata,
    Column("purpose", Text, primary_key=True),  # picture: addresses that open without a key
    Column("secret", Text, nullable=False),  # that signs; in clear
    Column("created_ms", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

webhook_watch = Table(
    "webhook_watch",
    metadata,
    Column("batch_id", Text, ForeignKey("batch.id"), primary_key=True),  # whose end is to be told
    Column("look_ms", BigInteger),  # when to look at it again; NULL = it has ended, and was told
    Index(
        "ix_webhook_watch_look",
        "look_ms",
        sqlite_where=text("look_ms IS NOT NULL"),
        postgresql_where=text("look_ms IS NOT NULL"),
    ),
)

webhook_delivery = Table(
    "webhook_delivery",
    metadata,
    Column("id", Text, primary_key=True),  # header webhook-id: the same at each try
    Column("webhook_id", Text, ForeignKey("webhook.id"), nullable=False),
    Column("event", Text, nullable=False),  # contracts.BatchEvent, or webhook.test
    Column(
        "subject", Text, nullable=False
    ),  # what it is about: a batch's id, or that of an order that became none
    Column("body", Text, nullable=False),  # JSON, as it is signed and sent
    Column("state", Text, nullable=False),  # pending, delivered, given_up, dropped (the webhook was removed)
    Column("tries", Integer, nullable=False),  # begun; the claim's number
    Column("next_ms", BigInteger, nullable=False),  # not tried earlier
    Column("claimed_until_ms", BigInteger),  # somebody sends it until then; NULL = nobody
    Column("created_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),  # when it became final
    UniqueConstraint("webhook_id", "subject", name="uq_webhook_delivery_subject"),  # one end is told once
    CheckConstraint("state IN ('pending', 'delivered', 'given_up', 'dropped')", name="state"),
    Index(
        "ix_webhook_delivery_due",
        "next_ms",
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    ),
    Index(
        "ix_webhook_delivery_given_up",
        "ended_ms",
        sqlite_where=text("state = 'given_up'"),
        postgresql_where=text("state = 'given_up'"),
    ),
    Index(
        "ix_webhook_delivery_claimed",
        "webhook_id",
        sqlite_where=text("claimed_until_ms IS NOT NULL"),
        postgresql_where=text("claimed_until_ms IS NOT NULL"),
    ),
    Index("ix_webhook_delivery_webhook", "webhook_id", "id"),
)

webhook_try = Table(
    "webhook_try",
    metadata,
    Column("delivery_id", Text, ForeignKey("webhook_delivery.id"), primary_key=True),
    Column("number", Integer, primary_key=True),  # 1-based
    Column("status", Integer),  # HTTP's; NULL = no answer came
    Column("error", Text),  # why it was no success
    Column("milliseconds", BigInteger, nullable=False),  # it took
    Column("at_ms", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
