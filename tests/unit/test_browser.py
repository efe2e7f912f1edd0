"""A browser for machines that have none: what is not what it should be is refused, and said."""

import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pages import chromium

FakeNpm = Callable[[str], None]


@pytest.fixture
def fake_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNpm:
    """Make the only npm on the PATH a script."""

    def made(body: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "npm").write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
        (folder / "npm").chmod(stat.S_IRWXU)
        monkeypatch.setenv("PATH", str(folder))

    return made


def test_a_package_that_is_not_the_pinned_file_is_refused(fake_npm: FakeNpm, tmp_path: Path) -> None:
    # Given a registry that hands out something else under the same name
    fake_npm(
        "to = next(one for one in sys.argv if 'pack-destination' in one).split('=')[1]\n"
        "open(to + '/sparticuz-chromium-147.0.0.tgz', 'w').write('something else')"
    )
    # When it is fetched, then it is refused before anything is unpacked
    with pytest.raises(chromium.Unavailable, match="not the file that it was"):
        chromium.fetch(tmp_path / "browser" / "new")
    assert list((tmp_path / "browser").iterdir()) == []


def test_a_registry_that_does_not_answer_ends_nothing(
    fake_npm: FakeNpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a machine without a browser, and no registry
    fake_npm("sys.exit('ENOTFOUND')")
    monkeypatch.setattr(chromium, "FOLDER", tmp_path / "browser" / "new")
    monkeypatch.setattr(chromium, "STARTER", tmp_path / "browser" / "new" / "start")
    # When one is wanted
    chromium.main()
    # Then it is said why there is none
    assert "ENOTFOUND; tests of pages in a browser will be skipped" in capsys.readouterr().out


def test_a_machine_that_none_is_built_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(chromium.Unavailable, match="none is built for linux on riscv64"):
        chromium.fetch(tmp_path / "new")


def test_a_machine_that_has_one_fetches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chromium").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    chromium.main()
    assert capsys.readouterr().out == f"browser: {tmp_path / 'chromium'}\n"
