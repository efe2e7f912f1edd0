"""The pulse of a process: what probes of the same machine read."""

import json
import socket
from pathlib import Path

from routet2i.pulse import FRESH_SECONDS, Pulse, beats


def test_a_process_that_beats_is_fresh_until_it_ends(tmp_path: Path) -> None:
    # Given a process that has beaten
    pulse = Pulse(tmp_path, service="worker", name="edge-1@here")
    pulse.beat()
    # Then it is seen, under its service only
    (beat,) = beats(tmp_path, service="worker")
    assert (beat.name, beat.is_fresh) == ("edge-1@here", True)
    assert beats(tmp_path, service="scheduler") == []
    # And no longer once it has ended
    pulse.end()
    assert beats(tmp_path, service="worker") == []


def test_an_old_sign_and_one_from_before_the_last_start_of_the_machine_are_not_fresh(tmp_path: Path) -> None:
    # Given signs from long ago, from a clock that stood higher, and one of now
    pulse = Pulse(tmp_path, service="scheduler", name="s")
    pulse.beat()
    (path,) = (tmp_path / "run" / "alive").iterdir()
    told = json.loads(path.read_text())
    for name, at in (("old", told["at"] - 2 * FRESH_SECONDS), ("before", told["at"] + 1e9)):
        path.with_name(f"scheduler-{name}.json").write_text(json.dumps(told | {"name": name, "at": at}))
    # Then the one of now comes first and alone is fresh
    assert [(beat.name, beat.is_fresh) for beat in beats(tmp_path, service="scheduler")] == [
        ("s", True),
        ("old", False),
        ("before", False),
    ]


def test_signs_of_other_machines_and_broken_files_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "alive"
    folder.mkdir(parents=True)
    other = {"service": "worker", "name": "n", "host": f"not-{socket.gethostname()}", "pid": 1, "at": 1}
    (folder / "worker-other-1.json").write_text(json.dumps(other))
    (folder / "worker-broken-2.json").write_text("{")
    assert beats(tmp_path, service="worker") == []


def test_a_home_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where a folder should be")
    pulse = Pulse(tmp_path, service="worker", name="n")
    pulse.beat()
    pulse.end()
