"""A preview held against the file that is submitted from it: is it the same file, are tiers and prices?

It reads no file and writes nothing; what it promises for each line stands in the database already.
"""

from routet2i.contracts import GenerationRequest, StoredPreview
from routet2i.errors import BudgetTooSmall, Conflict, TierError
from routet2i.tiers import Tiers


class Promise:
    """What a preview promised, and how far today's prices have moved from it."""

    def __init__(self, preview: StoredPreview, *, tiers: Tiers, fmt: str, source: str) -> None:
        """Begin before the file is read.

        Args:
            tiers: of today.
            fmt: what the file is read as.
            source: the file's name, for people.
        Raises:
            Conflict: the preview read the file as another format.
            TierError: a tier that it promised is not in the tier file.
        """
        self.preview_id = preview.preview_id
        self.micro_usd = preview.head.micro_usd  # of all jobs
        self.repriced_jobs = 0  # lines so far that the tier file has another price for
        self.repriced_micro_usd = 0  # what the lines so far cost by the tier file
        self._preview = preview
        self._tiers = tiers
        self._source = source
        self._seen = self._unknown = 0
        if _as_lines(fmt) != _as_lines(preview.head.fmt):
            raise Conflict(
                f"preview {self.preview_id} read its file as {preview.head.fmt}, not as {fmt}; "
                f"type --format {preview.head.fmt}"
            )
        promised = {tier for tier, _ in preview.prices.values()}
        if gone := sorted(promised - set(tiers.profiles)):
            raise TierError(
                f"preview {self.preview_id} sends jobs to tier {gone[0]!r}, which is not in {tiers.source}; "
                f"put it back, or type: routet2i preview FILE"
            )

    def limit(self, budget_micro_usd: int | None) -> int:
        """Return the batch's limit: what the preview costs, or the budget if it gives more.

        Raises:
            BudgetTooSmall: it gives less.
        """
        if budget_micro_usd is None:
            return self.micro_usd
        if budget_micro_usd < self.micro_usd:
            raise BudgetTooSmall(
                f"the budget of ${dollars(budget_micro_usd)} does not cover preview {self.preview_id}, which "
                f"costs ${dollars(self.micro_usd)}; type --budget {dollars(self.micro_usd)} or more, or "
                "leave it out"
            )
        return budget_micro_usd

    def see(self, request: GenerationRequest) -> None:
        """Take notice of one accepted line."""
        self._seen += 1
        promised = self._preview.prices.get(request.line_no)
        if promised is None:
            self._unknown += 1
            return
        tier, micro_usd = promised
        today = self._tiers[tier].price(request.n, width=request.width, height=request.height)
        self.repriced_jobs += today != micro_usd
        self.repriced_micro_usd += today

    def require_file(self, sha256: str) -> None:
        """Make sure, after the last line, that it was the preview's file.

        Raises:
            Conflict: it is another file, or other lines of it are good now.
        """
        head = self._preview.head
        if sha256 != head.file_sha256:
            raise Conflict(
                f"{self._source} is not the file that preview {self.preview_id} was made of; submit that "
                f"one, or type: routet2i preview FILE"
            )
        if self._unknown or self._seen != head.jobs:
            raise Conflict(
                f"preview {self.preview_id} took {head.jobs} lines of {self._source}, now {self._seen} are "
                f"good; set ROUTET2I_MAX_LINE_BYTES and ROUTET2I_MAX_PROMPT_CHARS as they were, or, if a "
                f"deadline has passed, type: routet2i preview FILE"
            )


def _as_lines(fmt: str) -> str:
    """Return a format's family: lines of an OpenAI file are found among JSON lines, too."""
    return "jsonl" if fmt == "openai" else fmt


def dollars(micro_usd: int) -> str:
    """Return an exact decimal with at least two places."""
    whole, rest = divmod(micro_usd, 1_000_000)
    digits = f"{rest:06d}".rstrip("0")
    return f"{whole}.{digits:0<2}"
