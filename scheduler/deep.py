"""What takes long to check: every promise of the database in SQL, and every picture's bytes against its name.

For `doctor --deep`: after a restore, after a disk was in trouble, once in a while. It changes nothing.
"""

from collections.abc import Iterator, Sequence

from db.audit import check_invariants
from db.integrity import damage
from db.repository import Repository
from db.session import check_schema, make_engine
from routet2i.errors import RouteT2IError
from routet2i.images import ImageStore
from routet2i.settings import Settings
from scheduler.findings import Finding, Level

STEP = 1_000  # names per question
SHOWN = 3  # broken pictures that are named


def examine_deeply(settings: Settings) -> Iterator[Finding]:
    """Yield a finding per question; a database that does not answer is one, too."""
    if not settings.has_database:
        return
    engine = make_engine(settings.database)
    try:
        check_schema(engine)
        found = damage(engine)
        if found is not None:
            yield _finding("integrity", Level.FAIL, found, "routet2i restore FILE, into another home")
            return
        yield _finding("integrity", Level.OK, "the database's file is whole")
        yield _promises(check_invariants(engine))
        yield _pictures(Repository(engine), ImageStore(root=settings.pictures))
    except RouteT2IError as error:
        text, _, remedy = str(error).partition("; ")
        yield _finding("database", Level.FAIL, text, remedy.removeprefix("type: ") or None)
    finally:
        engine.dispose()


def _finding(name: str, level: Level, detail: str, remedy: str | None = None) -> Finding:
    return Finding(name=name, level=level, detail=detail, remedy=remedy)


def _promises(broken: Sequence[object]) -> Finding:
    if not broken:
        return _finding("promises", Level.OK, "every invariant holds")
    told = ", ".join(str(one) for one in broken[:SHOWN])
    return _finding("promises", Level.FAIL, f"{len(broken)} broken: {told}", "keep a backup, and report it")


def _pictures(repository: Repository, store: ImageStore) -> Finding:
    checked, broken, after = 0, [], ""
    while names := repository.living_pictures(after=after, limit=STEP):
        checked += len(names)
        broken += [name for name in names if not store.is_whole(name)]
        after = names[-1]
    if not broken:
        return _finding("pictures", Level.OK, f"{checked} there and unharmed")
    told = ", ".join(f"{name[:12]}..." for name in broken[:SHOWN])
    return _finding(
        "pictures",
        Level.FAIL,
        f"{len(broken)} of {checked} missing or damaged: {told}",
        f"copy them from a backup of {store.root}",
    )
