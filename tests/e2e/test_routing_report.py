"""The whole command of the routing report, on the data that need neither pictures nor ratings."""

import subprocess
import sys

from scheduler.routing import document


def test_one_command_writes_the_page_its_reports_and_its_pictures(tmp_path):
    # When a quick look is taken at the synthetic world
    command = [sys.executable, "-m", "scheduler.routing", "--quick", "--parts", "drawn", "--processes", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    # Then what is printed is what is written
    page = (tmp_path / "docs" / "routing.md").read_text(encoding="utf-8")
    assert page in done.stdout
    # and the method, the best router and the parts that were not measured stand there
    for said in ("| **routet2i** |", "| bayes |", document.NOT_MEASURED, "training seeds"):
        assert said in page
    assert (tmp_path / "reports" / "routing.csv").exists()
    assert list((tmp_path / "docs").glob("routing-synthetic-*.png"))
