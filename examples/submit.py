"""Without HTTP: submit, wait and ask in SQL from a program that has routet2i installed.

`python examples/submit.py prompts.txt --budget 0.30` beside a running `routet2i up` of the same home. It
reads the same settings as the command (`ROUTET2I_HOME` and so on) and talks to the database alone.
"""

import argparse
import time
from decimal import Decimal
from pathlib import Path

from db import audit
from db.asking import reader
from db.repository import Repository
from db.session import make_engine
from routet2i.settings import Settings
from scheduler.submit import submit_file

QUESTION = """
    SELECT tier, reason, count(*) AS pictures, sum(cost_charged_usd) AS usd, avg(q_alignment) AS alignment
      FROM job_audit WHERE batch_id = '{batch_id}' GROUP BY tier, reason ORDER BY tier, reason
"""


def main() -> None:
    """Read the command line, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompts", type=Path, help="JSON lines, CSV, or text with one prompt a line")
    parser.add_argument("--budget", type=Decimal, default=Decimal(1), help="limit of the batch in dollars")
    arguments = parser.parse_args()
    settings = Settings()
    repository = Repository(make_engine(settings.database))
    submission = submit_file(
        repository,
        arguments.prompts,
        tiers=settings.read_tiers(),
        settings=settings,
        budget_micro_usd=int(arguments.budget * 1_000_000),
    )
    print(
        f"batch {submission.batch_id}: {submission.accepted} jobs, {submission.rejected_count} lines refused"
    )
    for line in submission.rejected:
        print(f"line {line.line_no}: {line.reason}")
    while not (status := audit.batch_status(repository.engine, submission.batch_id)).complete:
        time.sleep(0.5)
    print(f"spent ${status.spent_micro_usd / 1_000_000:.3f}")
    with reader(settings.database) as asked:
        answer = asked.ask(QUESTION.format(batch_id=submission.batch_id))  # an id of ours, nobody's text
        print(*answer.columns, sep="\t")
        for row in answer.rows:
            print(*row, sep="\t")


if __name__ == "__main__":
    main()
