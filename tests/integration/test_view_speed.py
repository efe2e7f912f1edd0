"""The views on 100,000 jobs: one batch, one window, a month, each while somebody waits for it."""

import time

import pytest
from sqlalchemy import text

from db.session import reading, transaction

JOBS, PER_BATCH, PER_WINDOW = 100_000, 1_000, 500
pytestmark = pytest.mark.benchmark

SERIES = {
    "sqlite": """(WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :last)
                  SELECT i FROM n)""",
    "postgresql": "(SELECT CAST(i AS bigint) AS i FROM generate_series(0, :last) AS i)",
}
BATCH, WINDOW = f"CAST(i / {PER_BATCH} AS TEXT)", f"CAST(i / {PER_WINDOW} AS TEXT)"
DAY = 86_400_000
FILL = (  # (rows, statement): half edge, half cloud, over thirty days, every tenth job not finished
    (
        JOBS // PER_BATCH,
        f"""INSERT INTO batch(id, client, idem_key, body_sha256, name, state, n_accepted, n_rejected,
                              cursor_line, created_ms)
            SELECT 'b' || i, 'default', 'k' || i, 'h', 'n' || i, 'open', {PER_BATCH}, 0, {PER_BATCH}, i""",
    ),
    (
        JOBS // PER_BATCH,
        "INSERT INTO budget(id, period, lim, reserved, spent) SELECT 'batch:b' || i, 'total', 1000000, 0, 0",
    ),
    (
        JOBS // PER_WINDOW,
        """INSERT INTO decision_window(id, policy, predictor_name, predictor_version, n_assigned, n_deferred,
                                       n_fallback, solve_us, committed_ms)
            SELECT 'w' || i, 'p', 'n', 'v', 500, 0, 0, 1000, i""",
    ),
    (
        JOBS // PER_WINDOW,
        f"""INSERT INTO microbatch(id, batch_id, window_id, tier, width, height, state, fence, deliveries,
                                   deaths, reserved_left, created_ms)
            SELECT 'm' || i, 'b' || (i * {PER_WINDOW} / {PER_BATCH}), 'w' || i, 'edge', 8, 8, 'done', 1, 1, 0,
                   0, i""",
    ),
    (
        JOBS,
        f"""INSERT INTO job(id, batch_id, seq, custom_id, prompt, seed, n, priority, not_before_ms,
                            cancel_requested, state, microbatch_id, created_ms)
            SELECT 'j' || i, 'b' || {BATCH}, i % {PER_BATCH}, 'c' || i, 'a red circle on white', i, 1,
                   0, 0, 0, CASE WHEN i % 10 = 0 THEN 'assigned' ELSE 'done' END, 'm' || {WINDOW}, i""",
    ),
    (
        JOBS,
        f"""INSERT INTO assignment(job_id, window_id, tier, reason, prs, threshold, micro_usd, scores)
            SELECT 'j' || i, 'w' || {WINDOW}, 'edge', 'r', 0.5, 0.4, 100, '{{}}'""",
    ),
    (
        JOBS,
        """INSERT INTO attempt(job_id, microbatch_id, fence, worker_id, started_ms)
            SELECT 'j' || i, 'm0', 1, 'w', 1""",
    ),
    (
        JOBS,
        f"""INSERT INTO outcome(job_id, state, tier, microbatch_id, fence, micro_usd, seconds, at_ms)
            SELECT 'j' || i, 'succeeded', CASE WHEN i % 2 = 0 THEN 'edge' ELSE 'cloud' END, 'm0', 1, 100, 0.5,
                   (i % 30) * {DAY} FROM {{series}} s WHERE i % 10 <> 0""",
    ),
    (
        JOBS,
        """INSERT INTO picture(job_id, idx, sha256, seed, width, height, scores)
            SELECT 'j' || i, 0, 'x' || i, 1, 8, 8, '{"detail": 0.5, "alignment": 0.5}'
              FROM {series} s WHERE i % 10 <> 0""",
    ),
    (
        JOBS,
        """INSERT INTO ledger(event_id, budget_id, period, kind, from_side, to_side, micro_usd, at_ms)
            SELECT 'settle:' || i, 'batch:b' || (i / 1000), 'total', 'settle', 'reserved', 'spent', 100, 1""",
    ),
)
QUESTIONS = {  # question -> most milliseconds on a busy machine
    "SELECT * FROM batch_summary WHERE batch_id = 'b7'": 100,
    "SELECT * FROM window_summary WHERE window_id = 'w7'": 100,
    "SELECT * FROM budget_status WHERE scope = 'batch'": 200,
    "SELECT * FROM batch_summary ORDER BY submitted_at DESC LIMIT 20": 2_000,
    "SELECT * FROM window_summary ORDER BY decided_at DESC LIMIT 20": 2_000,
    "SELECT * FROM tier_daily ORDER BY day, tier": 3_000,
}


def test_views_answer_on_a_hundred_thousand_jobs_while_somebody_waits(engine):
    # Given 100,000 jobs
    with transaction(engine) as connection:
        for rows, statement in FILL:
            series = SERIES[engine.dialect.name].replace(":last", str(rows - 1))
            whole = statement.replace("{series}", series)
            connection.execute(text(whole if "{series}" in statement else f"{whole} FROM {series} s"))
        connection.exec_driver_sql("ANALYZE")
    # When each question is asked, the best of three
    took = {}
    for question in QUESTIONS:
        tries = []
        for _ in range(3):
            begun = time.perf_counter()
            with reading(engine) as connection:
                assert connection.execute(text(question)).all()
            tries.append((time.perf_counter() - begun) * 1000)
        took[question] = round(min(tries), 1)
    print(engine.dialect.name, took)
    # Then none takes longer than it may
    assert {question: ms for question, ms in took.items() if ms > QUESTIONS[question]} == {}
