"""Figures: what is printed, what is stored, and what documents say is one and the same."""

from pathlib import Path

import pytest

from routet2i.figures import MARKED, Figure, as_table, read_report, refreshed, write_report

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "routet2i" / "pocket" / "README.md"]
FIGURE = Figure(
    figure="jobs/s",
    value=12.0,
    unit="times",
    baseline="1",
    target="at least 10",
    holds=True,
    command="make x",
)


def test_a_report_is_read_as_it_was_written(tmp_path):
    write_report(tmp_path / "reports" / "x.json", [FIGURE])
    assert read_report(tmp_path / "reports" / "x.json") == [FIGURE]


def test_a_marked_table_is_made_from_its_report(tmp_path):
    # Given a document with an old table
    write_report(tmp_path / "reports" / "x.json", [FIGURE])
    old = "before\n<!-- figures: reports/x.json -->\nstale\n<!-- end of figures -->\nafter\n"
    # When it is refreshed
    new = refreshed(old, root=tmp_path)
    # Then the table and its command stand there, what is around it stays, and a second time changes nothing
    assert as_table([FIGURE]) in new
    assert "`make x`" in new
    assert "stale" not in new
    assert new.startswith("before\n")
    assert new.endswith("after\n")
    assert refreshed(new, root=tmp_path) == new


def test_an_empty_report_leaves_an_empty_block(tmp_path):
    write_report(tmp_path / "reports" / "x.json", [])
    old = "<!-- figures: reports/x.json -->\nstale\n<!-- end of figures -->"
    assert refreshed(old, root=tmp_path) == "<!-- figures: reports/x.json -->\n<!-- end of figures -->"


def test_a_missed_target_is_shown_as_missed():
    assert "**no**" in as_table(
        [Figure(**{**{f: getattr(FIGURE, f) for f in FIGURE.__dataclass_fields__}, "holds": False})]
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_tables_in_documents_are_those_of_the_reports(document):
    text = document.read_text(encoding="utf-8")
    assert refreshed(text, root=ROOT) == text, f"type: python -m routet2i.figures {document}"


def test_some_document_shows_each_report():
    shown = {match[2] for document in DOCUMENTS for match in MARKED.finditer(document.read_text("utf-8"))}
    assert shown == {f"reports/{path.name}" for path in ROOT.glob("reports/*.json")}
