"""Read rated sets: prompts, what people or metrics said of several tiers' pictures, tags, groups.

Readers of the public sets in their own column formats, and of a long table that anybody can write. All give
the same `RatedSet`, scores scaled to [0, 1]. It knows no router, no encoder and no split; the caller names
the files.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from routet2i.errors import UsageError
from scheduler.folds import prompt_groups
from scheduler.predictor.examples import Floats, Labels, Rows
from scheduler.prs import normalised
from scheduler.table_lines import table_lines

Range = tuple[float, float]  # lowest and highest value of a scale; becomes 0 and 1
Cell = tuple[str, str]  # tier, metric

UNIT: Range = (0.0, 1.0)
LIKERT: Range = (1.0, 5.0)
TABLE_COLUMNS = ("prompt", "group", "tier", "metric", "value")
GENAI_MODELS = (  # cheapest first, as far as one can tell
    *("SDXL_Turbo", "SDXL_2_1", "SDXL_Base", "DeepFloyd_I_XL_v1"),
    *("Midjourney_6", "DALLE_3"),
)
AGIQA_MODELS = ("AttnGAN", "glide", "sd1.5", "xl2.2", "DALLE2", "midjourney")
TIFA_MODELS = (
    *("vq_diffusion", "mini_dalle", "stable_diffusion_v1_1"),
    *("stable_diffusion_v1_5", "stable_diffusion_v2_1"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RatedSet:
    """n prompts with what was measured on every one of T tiers."""

    name: str
    prompts: tuple[str, ...]
    labels: Labels  # (n, T, N), scaled to [0, 1]
    groups: Rows  # (n,) near-duplicates have one number: split by it; see `folds.prompt_groups`
    ranges: tuple[Range, ...]  # of each metric, what became 0 and 1
    tags: tuple[tuple[str, ...], ...] | None = None
    ratings: Floats | None = None  # (n, T, R) single raters' scores, [0, 1], where the set has one metric
    dropped: int = 0  # prompts left out: a score of a tier or a metric is missing

    def __len__(self) -> int:
        return len(self.prompts)


def read_genai_bench(folder: Path, *, models: Sequence[str] = GENAI_MODELS) -> RatedSet:
    """Read GenAI-Bench: how well pictures follow 1600 prompts, three raters, 12 skills as tags.

    Args:
        folder: holds prompts.tsv and scores_long.csv.
        models: two or more of the set's own names, cheapest first.
    Raises:
        UsageError: a file cannot be read, or has no such model; says where and what to do.
    """
    texts = {
        row["prompt_id"]: (row["prompt"], tuple(tag for tag in row["skills"].split("|") if tag))
        for _, row in _rows(folder / "prompts.tsv", ("prompt_id", "prompt", "skills"), delimiter="\t")
    }
    path = folder / "scores_long.csv"
    columns = ("r1", "r2", "r3")
    values = _Values()
    for line, row in _rows(path, ("prompt_id", "model", *columns)):
        for column in columns:
            values.add(row["prompt_id"], (row["model"], column), _number(row[column], at=(path, line)))
    ids, ratings = values.table(models, columns, path=path)  # (n, T, 3): raters in the place of metrics
    unknown = [prompt_id for prompt_id in ids if prompt_id not in texts]
    if unknown:
        raise UsageError(f"{folder / 'prompts.tsv'} has no prompt {unknown[0]!r}; use files of one release")
    ratings = _scaled(ratings, ranges=(LIKERT,) * len(columns))
    return _rated(
        "genai_bench_1600",
        prompts=[texts[prompt_id][0] for prompt_id in ids],
        tiers=models,
        metrics=("human",),
        scores=ratings.mean(axis=2, keepdims=True),
        ranges=(LIKERT,),
        tags=[texts[prompt_id][1] for prompt_id in ids],
        ratings=ratings,
        dropped=values.count - len(ids),
    )


def read_agiqa3k(
    folder: Path, *, models: Sequence[str] = AGIQA_MODELS, metrics: Sequence[str] = ("quality", "align")
) -> RatedSet:
    """Read AGIQA-3K, the pictures drawn with each model's normal settings; the style is the tag.

    Args:
        folder: holds scores_long.csv.
        models: two or more of the set's own names, cheapest first.
        metrics: of quality and align.
    Raises:
        UsageError: the file cannot be read, or has no such model or metric.
    """
    path = folder / "scores_long.csv"
    columns = {metric: f"mos_{metric}" for metric in metrics}
    texts: dict[str, tuple[str, tuple[str, ...]]] = {}
    values = _Values()
    for line, row in _rows(path, ("prompt", "style", "model", "config", "pid", *columns.values())):
        if row["config"] != "normal":  # other steps or guidance of one model: no tiers
            continue
        texts[row["pid"]] = (row["prompt"], (row["style"] or "no style",))
        for metric, column in columns.items():
            values.add(row["pid"], (row["model"], metric), _number(row[column], at=(path, line)))
    ids, scores = values.table(models, metrics, path=path)
    ranges = ((0.0, 5.0),) * len(metrics)
    return _rated(
        "agiqa3k",
        prompts=[texts[pid][0] for pid in ids],
        tiers=models,
        metrics=metrics,
        scores=_scaled(scores, ranges=ranges),
        ranges=ranges,
        tags=[texts[pid][1] for pid in ids],
        dropped=values.count - len(ids),
    )


def read_tifa160(
    folder: Path, *, models: Sequence[str] = TIFA_MODELS, metrics: Sequence[str] = ("human", "dsg")
) -> RatedSet:
    """Read TIFA160, a test set: 160 prompts, two raters and the mean of up to five others; tag = source.

    Args:
        folder: holds scores_long.csv.
        models: two or more of the set's own names, cheapest first.
        metrics: of human and dsg.
    Raises:
        UsageError: the file cannot be read, or has no such model or metric.
    """
    path = folder / "scores_long.csv"
    known = {"human": "human_avg", "dsg": "dsg_likert"}
    if not set(metrics) <= set(known):
        raise UsageError(f"tifa160 has the metrics {', '.join(known)}, not {', '.join(metrics)}")
    texts: dict[str, str] = {}
    values = _Values()
    for line, row in _rows(path, ("text_id", "text", "model", *known.values())):
        texts[row["text_id"]] = row["text"]
        for metric in metrics:
            if row[known[metric]]:
                number = _number(row[known[metric]], at=(path, line))
                values.add(row["text_id"], (row["model"], metric), number)
    ids, scores = values.table(models, metrics, path=path)
    ranges = (LIKERT,) * len(metrics)
    return _rated(
        "tifa160",
        prompts=[texts[text_id] for text_id in ids],
        tiers=models,
        metrics=metrics,
        scores=_scaled(scores, ranges=ranges),
        ranges=ranges,
        tags=[(text_id.rpartition("_")[0],) for text_id in ids],
        dropped=len(texts) - len(ids),
    )


def read_table(
    path: Path,
    *,
    tiers: Sequence[str] | None = None,
    weights: Mapping[str, float] | None = None,
    ranges: Mapping[str, Range] | None = None,
) -> RatedSet:
    """Read anybody's scores: a CSV of `prompt,group,tier,metric,value`, one score a line.

    Several values of one prompt, tier and metric (raters, seeds) are averaged. Higher must be better. A
    metric without a range has [0, 1], widened to the values there are. PRS does not depend on that choice: no
    shift or stretch of a metric changes it.

    Args:
        path: the CSV; UTF-8, with a header, columns in any order, others are ignored. `group` may be empty or
            missing; prompts of one group, like near-duplicates, never stand on both sides of a split.
        tiers: which to keep, cheapest first; None = all, in order of first appearance.
        weights: metric -> weight; one without is 0. None = all equal.
        ranges: metric -> lowest and highest possible value, such as (1, 5); they become 0 and 1.
    Raises:
        UsageError: file, line, reason and remedy.
    """
    for metric, (low, high) in (ranges or {}).items():
        if not low < high:
            raise UsageError(f"the range {low} to {high} of metric {metric!r} is empty; give lowest, highest")
    values = _Values()
    group_of: dict[str, str] = {}
    names: dict[str, None] = {}
    metrics: dict[str, None] = {}
    for line, row in _rows(path, tuple(column for column in TABLE_COLUMNS if column != "group")):
        for column in ("prompt", "tier", "metric"):
            if not row[column]:
                raise UsageError(f"{path}, line {line}: {column} is empty; fill it in or remove the line")
        prompt, group = row["prompt"], row.get("group") or ""
        if group_of.setdefault(prompt, group) != group:
            raise UsageError(
                f"{path}, line {line}: this prompt was in group {group_of[prompt]!r} before and is in "
                f"{group!r} now; give one prompt one group, or leave the column empty"
            )
        names[row["tier"]] = metrics[row["metric"]] = None
        value = _number(row["value"], at=(path, line))
        low, high = (ranges or {}).get(row["metric"], (value, value))
        if not low <= value <= high:
            raise UsageError(
                f"{path}, line {line}: value {value} of metric {row['metric']!r} is outside its range "
                f"{low} to {high}; correct the value or the range"
            )
        values.add(prompt, (row["tier"], row["metric"]), value)
    tiers = tuple(names) if tiers is None else tuple(tiers)
    prompts, scores = values.table(tiers, tuple(metrics), path=path)
    scales = tuple((ranges or {}).get(metric) or values.range_of(metric) for metric in metrics)
    return _rated(
        path.stem,
        prompts=prompts,
        tiers=tiers,
        metrics=tuple(metrics),
        scores=_scaled(scores, ranges=scales),
        ranges=scales,
        weights=_weights(weights, metrics=tuple(metrics), path=path),
        given=[group_of[prompt] for prompt in prompts],
        dropped=values.count - len(prompts),
    )


class _Values:
    """Sums of values by item and cell, in order of first appearance."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[Cell, tuple[float, int]]] = {}
        self._ranges: dict[str, Range] = {}

    @property
    def count(self) -> int:
        """Number of items that have any value."""
        return len(self._sums)

    def add(self, item: str, cell: Cell, value: float) -> None:
        cells = self._sums.setdefault(item, {})
        total, times = cells.get(cell, (0.0, 0))
        cells[cell] = (total + value, times + 1)
        low, high = self._ranges.get(cell[1], UNIT)
        self._ranges[cell[1]] = (min(low, value), max(high, value))

    def range_of(self, metric: str) -> Range:
        """Return [0, 1] widened to the values there were."""
        return self._ranges[metric]

    def table(self, tiers: Sequence[str], metrics: Sequence[str], *, path: Path) -> tuple[list[str], Floats]:
        """Return the items that have all cells, and their means (n, T, N).

        Raises:
            UsageError: there are fewer than two tiers, one is unknown, or no item has all.
        """
        known = {tier for cells in self._sums.values() for tier, _ in cells}
        if len(set(tiers)) != len(tiers) or len(tiers) < 2:
            raise UsageError(
                f"{path}: a router needs at least two different tiers, not {', '.join(tiers) or 'none'}; "
                "add lines of another tier, or name two"
            )
        for tier in tiers:
            if tier not in known:
                raise UsageError(
                    f"{path} has no scores of tier {tier!r}; it has {', '.join(sorted(known))}; name those"
                )
        wanted = [(tier, metric) for tier in tiers for metric in metrics]
        items = [item for item, cells in self._sums.items() if all(cell in cells for cell in wanted)]
        if not items:
            raise UsageError(
                f"{path}: not one prompt has all of {len(metrics)} metrics on all of {', '.join(tiers)}; "
                "score the same prompts on every tier, or name fewer tiers"
            )
        sums = np.array([[self._sums[item][cell] for cell in wanted] for item in items])  # (n, T * N, 2)
        means: Floats = (sums[..., 0] / sums[..., 1]).reshape(len(items), len(tiers), len(metrics))
        return items, means


def _rows(
    path: Path, columns: Sequence[str], *, delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, row) of a CSV with a header that has at least `columns`; values are stripped.

    Raises:
        UsageError: the file cannot be read, is no UTF-8, lacks a column, or a line has too many or too few.
    """
    reader = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(table_lines(file, path=path), delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            missing = [column for column in columns if column not in header]
            if missing:
                raise UsageError(
                    f"{path}, line 1: no column {missing[0]!r}; write a header with {delimiter.join(columns)}"
                )
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise UsageError(
                        f"{path}, line {reader.line_num}: {len(cells)} columns instead of {len(header)}; "
                        "put a text that contains the separator in double quotes"
                    )
                row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
                yield reader.line_num, row
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        line = reader.line_num if reader else 1
        raise UsageError(f"{path}, line {line}: {error}; check the quotes of this line") from error


def _number(text: str, *, at: tuple[Path, int]) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{at[0]}, line {at[1]}: {text!r} is no finite number; write one, such as 0.75")
    return number


def _scaled(scores: Floats, *, ranges: Sequence[Range]) -> Floats:
    """Return (n, T, N) moved from each metric's range to [0, 1]."""
    low, high = (np.array(side) for side in zip(*ranges, strict=True))
    scaled: Floats = np.clip((scores - low) / (high - low), 0.0, 1.0)
    return scaled


def _weights(weights: Mapping[str, float] | None, *, metrics: Sequence[str], path: Path) -> list[float]:
    if weights is None:
        return [1.0] * len(metrics)
    unknown = sorted(set(weights) - set(metrics))
    if unknown:
        raise UsageError(f"{path} has no metric {unknown[0]!r}; it has {', '.join(metrics)}; weigh those")
    return [weights.get(metric, 0.0) for metric in metrics]


def _rated(
    name: str,
    *,
    prompts: Sequence[str],
    tiers: Sequence[str],
    metrics: Sequence[str],
    scores: Floats,
    ranges: Sequence[Range],
    dropped: int,
    weights: Sequence[float] | None = None,
    tags: Sequence[tuple[str, ...]] | None = None,
    ratings: Floats | None = None,
    given: Sequence[str] | None = None,
) -> RatedSet:
    return RatedSet(
        name=name,
        prompts=tuple(prompts),
        labels=Labels(
            tiers=tuple(tiers),
            metrics=tuple(metrics),
            scores=scores,
            weights=normalised(weights or [1.0] * len(metrics)),
        ),
        groups=prompt_groups(prompts, given=given),
        ranges=tuple(ranges),
        tags=None if tags is None else tuple(tags),
        ratings=ratings,
        dropped=dropped,
    )
