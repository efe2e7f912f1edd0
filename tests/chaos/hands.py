"""What a world's processes are told while they run: files in HOME/chaos that exist or do not.

A worker of the harness looks at them before it draws; the faults make and delete them. It knows files only.
"""

from pathlib import Path


class Hands:
    """The folder of those files."""

    def __init__(self, home: Path) -> None:
        """Name the folder; `make` creates it."""
        self.folder = home / "chaos"
        self.drawn = self.folder / "drawn"  # one line per group of pictures: how many

    def make(self) -> None:
        """Create the folder."""
        self.folder.mkdir(parents=True)
        self.drawn.touch()

    def set(self, name: str, on: bool) -> None:
        """Make or delete a file."""
        if on:
            (self.folder / name).touch()
        else:
            (self.folder / name).unlink(missing_ok=True)

    def has(self, name: str) -> bool:
        """Whether a file exists."""
        return (self.folder / name).exists()

    def take(self, name: str) -> bool:
        """Make a file; False if it exists already: whoever comes first takes it."""
        try:
            (self.folder / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def note_drawn(self, pictures: int) -> None:
        """Count pictures as drawn."""
        with self.drawn.open("a") as lines:
            lines.write(f"{pictures}\n")

    def pictures_drawn(self) -> int:
        """Return how many pictures all workers have drawn."""
        return sum(int(line) for line in self.drawn.read_text().split())
