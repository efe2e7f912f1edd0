"""Results as Parquet and zip: every row, typed; every picture, under a name that harms nobody."""

import csv
import io
import json
import tracemalloc
import zipfile
from decimal import Decimal
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.audit import rows
from db.views import VIEWS
from routet2i.contracts import GenerationRequest, JobOutcome, JobState, Picture
from routet2i.images import ImageStore
from scheduler.bundle import picture_name, write_bundle
from scheduler.cli.exports import _whole, _write_csv
from scheduler.parquet import write_parquet

NASTY = [
    "../../etc/passwd",
    "/abs",
    "C:\\x",
    "CON",
    "a/b",
    "..",
    "=cmd()",
    "Ä ö\u202e",
    "same",
    "SAME",
    "x" * 128,
]


@pytest.fixture
def store(tmp_path):
    return ImageStore(root=tmp_path / "images")


@pytest.fixture
def batch_id(shop, store):
    """A batch with nasty names, two pictures a job, all drawn but the last, which failed."""
    opened = shop.repository.open_batch(
        client="default", idem_key="k", body_sha256="k", name="k", budget_micro_usd=None
    )
    requests = [
        GenerationRequest(line_no=3 * line, custom_id=name, prompt="=1+1", seed=100 * line, n=2)
        for line, name in enumerate(NASTY, start=1)
    ]
    shop.repository.add_jobs(opened.batch_id, requests, [], cursor_line=40)
    shop.repository.close_intake(opened.batch_id)
    shop.window(price=333, size=100)
    claim = shop.poll()
    outcomes = []
    for job in claim.jobs:
        if job.seed == 100 * len(NASTY):
            outcomes.append(shop.outcome(job, fails=True))
            continue
        pictures = tuple(
            Picture(
                index=index,
                seed=job.seed + index,
                sha256=store.put(f"png {job.seed} {index}".encode()),
                width=8,
                height=8,
                scores={"detail": 0.5, "alignment": 0.25},
            )
            for index in range(2)
        )
        outcomes.append(
            JobOutcome(
                job_id=job.job_id,
                state=JobState.SUCCEEDED,
                micro_usd=333,
                pictures=pictures,
                seconds=0.5,
                model_id="m",
                model_revision="r",
                settings="{}",
            )
        )
    assert shop.repository.record(claim, outcomes)
    assert shop.repository.finish(claim)
    return opened.batch_id


def bundle(shop, store, batch_id, file):
    found = rows(shop.engine, batch_id=batch_id, numbered=True)
    return write_bundle(found, file=file, store=store, write_csv=_write_csv)


def test_a_zip_has_every_picture_and_a_manifest_that_names_it(shop, store, batch_id, tmp_path):
    # When it is written
    told = bundle(shop, store, batch_id, tmp_path / "a.zip")
    assert (told.rows, told.pictures, told.missing) == (21, 20, 0)
    with zipfile.ZipFile(tmp_path / "a.zip") as made:
        assert made.testzip() is None
        names = made.namelist()
        manifest = [json.loads(line) for line in made.read("manifest.jsonl").splitlines()]
        # Then pictures come in the order of lines, then the manifests
        assert names == [*sorted(names[:-2]), "manifest.jsonl", "manifest.csv"]
        # And no name leaves its folder, and none is another's where capitals do not count
        assert len({name.lower() for name in names}) == len(names)
        assert all(
            not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts for name in names
        )
        # And each row names its picture, the failed one none
        for row in manifest:
            assert list(row) == ["picture", "line_no", *VIEWS["job_audit"].columns]
            if row["picture"] is not None:
                assert store.read(row["image_sha256"]) == made.read(row["picture"])
        assert [row["picture"] for row in manifest[:-1]] == names[:-2]
        assert manifest[-1]["picture"] is None
        assert {row["custom_id"] for row in manifest} == set(NASTY)
        # And the CSV says the same, and no spreadsheet runs it
        table = list(csv.DictReader(io.StringIO(made.read("manifest.csv").decode())))
        assert [row["picture"] for row in table] == [row["picture"] or "" for row in manifest]
        assert {row["prompt"] for row in table} == {"'=1+1"}
    # And unpacking stays where it is told to
    with zipfile.ZipFile(tmp_path / "a.zip") as made:
        made.extractall(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} >= {"out"}
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 20


def test_the_same_rows_and_pictures_are_the_same_bytes(shop, store, batch_id, tmp_path):
    for name in ("a.zip", "b.zip"):
        bundle(shop, store, batch_id, tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_picture_that_is_gone_damaged_or_deleted_is_counted_and_not_packed(shop, store, batch_id, tmp_path):
    # Given one picture gone, one damaged, one deleted on purpose
    first, second, third, *_ = [row["image_sha256"] for row in rows(shop.engine, batch_id=batch_id)]
    store.path_of(first).unlink()
    store.path_of(second).write_bytes(b"damaged")
    shop.repository.delete_pictures([third], before_ms=2**60, batch_id=None, who="ana")
    # When the file is written
    told = bundle(shop, store, batch_id, tmp_path / "a.zip")
    # Then the two are missing, the deleted one is not missed
    assert (told.pictures, told.missing) == (17, 2)
    with zipfile.ZipFile(tmp_path / "a.zip") as made:
        manifest = [json.loads(line) for line in made.read("manifest.jsonl").splitlines()]
        assert [row["picture"] for row in manifest[:3]] == [None] * 3
        assert b"damaged" not in {made.read(name) for name in made.namelist()[:-2]}


@given(
    st.lists(
        st.tuples(st.integers(1, 10**9), st.integers(0, 15), st.text(max_size=128)),
        unique_by=lambda one: one[:2],
    )
)
def test_names_are_different_whatever_the_ids_and_never_leave_their_folder(jobs):
    names = [picture_name(*one) for one in jobs]
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        folder, _, file = name.partition("/")
        assert folder == "pictures"
        assert file.isascii()
        assert not set(file) & set('/\\:*?"<>|\x00 ')
        assert len(file) < 100
        assert file[0].isdigit()


def test_parquet_has_every_row_typed_and_in_groups(shop, batch_id, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("scheduler.parquet.GROUP", 8)
    found = list(rows(shop.engine, batch_id=batch_id))
    # When it is written and read
    assert write_parquet(iter(found), file=tmp_path / "a.parquet", batch_id=batch_id) == 21
    with parquet.ParquetFile(tmp_path / "a.parquet") as made:
        table, groups, names = made.read(), made.num_row_groups, made.schema_arrow.names
        metadata = made.schema_arrow.metadata
    # Then it came in groups, with the view's columns, typed
    assert groups == 3
    assert names == list(VIEWS["job_audit"].columns)
    assert metadata[b"batch_id"] == batch_id.encode()
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["cost_charged_usd"] == "decimal128(18, 6)"
    assert kinds["finished_at"] == "timestamp[ms, tz=UTC]"
    assert (kinds["q_detail"], kinds["seed"], kinds["attempts"]) == ("double", "int64", "int32")
    # And every value is the row's
    for made_row, row in zip(table.to_pylist(), found, strict=True):
        for name, value in row.items():
            if name.endswith("_usd") and value is not None:
                assert made_row[name] == Decimal(round(float(value) * 1_000_000)).scaleb(-6)
            elif name.endswith("_at") and value is not None:
                assert made_row[name].isoformat(timespec="milliseconds") == value.replace("Z", "+00:00")
            else:
                assert made_row[name] == value
    # And its money sums to the micro-dollar
    assert sum(one for one in table["cost_charged_usd"].to_pylist() if one) == Decimal("0.003330")


def test_an_empty_batch_is_an_empty_table_and_an_empty_zip(shop, store, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    batch_id = shop.submit(0)
    assert (
        write_parquet(rows(shop.engine, batch_id=batch_id), file=tmp_path / "a.parquet", batch_id=batch_id)
        == 0
    )
    assert parquet.read_table(tmp_path / "a.parquet").num_rows == 0
    assert bundle(shop, store, batch_id, tmp_path / "a.zip").rows == 0
    assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == ["manifest.jsonl", "manifest.csv"]


def test_a_file_that_was_not_finished_has_no_name(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"older")
    with pytest.raises(RuntimeError), _whole(tmp_path / "a.zip") as begun:  # noqa: PT012
        begun.write_bytes(b"half")
        raise RuntimeError  # as if it were cut off
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    assert (tmp_path / "a.zip").read_bytes() == b"older"


def test_rows_are_written_as_they_come(tmp_path, store):
    # Given many rows that nobody keeps
    row = dict.fromkeys(["line_no", *VIEWS["job_audit"].columns]) | {"prompt": "p" * 1_000}

    def stream(count):
        return (
            {**row, "line_no": line, "job_id": str(line), "custom_id": str(line)} for line in range(count)
        )

    peaks = []
    for count in (1_000, 6_000):
        tracemalloc.start()
        write_bundle(stream(count), file=tmp_path / "a.zip", store=store, write_csv=_write_csv)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Then six times the rows take no more memory
    assert peaks[1] < 1.5 * peaks[0] + 1_000_000, peaks
