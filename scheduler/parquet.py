"""Rows of `job_audit` as a Parquet file: one typed column each, written group by group.

It knows the columns' types, not where rows come from. pyarrow is imported when a file is begun.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from db.views import VIEWS
from routet2i import __version__
from routet2i.errors import UsageError

if TYPE_CHECKING:
    import pyarrow

GROUP = 5_000  # rows: a few megabytes in memory, and still worth a reader's while
CODED = ("tier", "state", "reason", "predictor_version", "model_id", "model_revision", "worker")  # few values


def write_parquet(rows: Iterable[Mapping[str, Any]], *, file: Path, batch_id: str) -> int:
    """Write rows of the view to a new file; return how many.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"{error}; type: pip install 'routet2i[parquet]'") from error

    schema = pyarrow.schema(
        [pyarrow.field(name, _kind(name)) for name in VIEWS["job_audit"].columns],
        metadata={"routet2i": __version__, "batch_id": batch_id},
    )
    written = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        waiting = iter(rows)
        while group := list(islice(waiting, GROUP)):
            columns = {name: [_value(name, row[name]) for row in group] for name in schema.names}
            writer.write_table(pyarrow.table(columns, schema=schema), row_group_size=GROUP)
            written += len(group)
    return written


def _kind(name: str) -> "pyarrow.DataType":
    import pyarrow

    if name.endswith("_usd"):
        return pyarrow.decimal128(18, 6)
    if name.endswith("_at"):
        return pyarrow.timestamp("ms", tz="UTC")
    if name.startswith(("q_", "prs_")):
        return pyarrow.float64()
    if name == "seed":
        return pyarrow.int64()
    if name == "attempts":
        return pyarrow.int32()
    return pyarrow.dictionary(pyarrow.int32(), pyarrow.string()) if name in CODED else pyarrow.string()


def _value(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name.endswith("_usd"):  # to the micro-dollar: SQLite's view has floats
        return Decimal(round(Decimal(value) * 1_000_000)).scaleb(-6)
    return datetime.fromisoformat(value) if name.endswith("_at") else value
