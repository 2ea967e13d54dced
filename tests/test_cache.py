"""The cache: entries survive processes, are never torn, and what is wrong with them costs a warning."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest

from ovengine._cache import Cache
from ovengine.config import LoadOptions
from ovengine.errors import CacheWarning, ConfigError
from support import each, in_threads, run_python

KEY = {"model": "abc", "rows": 4}


def test_what_was_saved_is_loaded_by_anybody_with_the_folder(tmp_path: Path) -> None:
    Cache(tmp_path / "new" / "folder").save("proof", KEY, {"why": "two rows"})
    assert Cache(tmp_path / "new" / "folder").load("proof", KEY, dict) == {"why": "two rows"}


def test_kinds_and_keys_are_apart(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.save("proof", KEY, 1)
    assert cache.load("cost", KEY, int) is None
    assert cache.load("proof", {**KEY, "rows": 5}, int) is None
    cache.save("cost", KEY, 2)
    assert (cache.load("proof", KEY, int), cache.load("cost", dict(reversed(KEY.items())), int)) == (1, 2)


def test_a_key_is_the_same_after_json(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.save("proof", {"axes": ((0, None), (1,))}, 1)
    assert cache.load("proof", {"axes": [[0, None], [1]]}, int) == 1


def test_without_a_folder_nothing_is_kept() -> None:
    cache = Cache(None)
    cache.save("proof", KEY, 1)
    assert cache.load("proof", KEY, int) is None


def entry(folder: Path) -> Path:
    (path,) = folder.rglob("*.json")
    return path


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"key": {}, "value": 1}', "\udcff"])
def test_a_corrupt_entry_is_a_warning_and_is_written_anew(tmp_path: Path, text: str) -> None:
    cache = Cache(tmp_path)
    cache.save("proof", KEY, 1)
    entry(tmp_path).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.warns(CacheWarning, match=r"cannot be read and is ignored"):
        assert cache.load("proof", KEY, int) is None
    cache.save("proof", KEY, 2)
    assert cache.load("proof", KEY, int) == 2


def test_a_value_that_its_reader_refuses_is_a_corrupt_entry(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.save("proof", KEY, "four")
    with pytest.warns(CacheWarning, match="invalid literal"):
        assert cache.load("proof", KEY, int) is None


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file")
    with pytest.warns(CacheWarning, match="nothing is kept in the cache"):
        cache.save("proof", KEY, 1)
    with pytest.warns(CacheWarning, match="is ignored"):
        assert cache.load("proof", KEY, int) is None


def test_writers_and_readers_in_threads_and_processes_see_whole_entries_only(tmp_path: Path) -> None:
    values = [str(digit) * 50_000 for digit in range(8)]
    code = """
import sys
from pathlib import Path
from ovengine._cache import Cache
for digit in range(8):
    Cache(Path(sys.argv[1])).save("proof", {"model": "abc", "rows": 4}, str(digit) * 50_000)
"""

    def write(value: str) -> None:
        for _ in range(20):
            Cache(tmp_path).save("proof", KEY, value)

    def read(_: int) -> None:
        for _ in range(100):
            assert Cache(tmp_path).load("proof", KEY, str) in [None, *values]

    def other_process(_: int) -> None:
        done = run_python(code, str(tmp_path))
        assert done.returncode == 0, done.stderr

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_threads([*each(write, values[:2]), *each(read, range(2)), *each(other_process, range(2))])
    assert [path.suffix for path in (tmp_path / "proof").iterdir()] == [".json"]  # nothing half-written is left


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/srv/somebody")
    monkeypatch.setenv("OVENGINE_CACHE_DIR", "/var/cache/own")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/mine")
    assert LoadOptions(cache_dir=tmp_path).cache_directory == tmp_path
    assert LoadOptions(cache_dir=str(tmp_path)).cache_directory == tmp_path
    assert LoadOptions(cache_dir=None).cache_directory is None
    assert LoadOptions().cache_directory == Path("/var/cache/own")
    monkeypatch.setenv("OVENGINE_CACHE_DIR", "")
    assert LoadOptions().cache_directory == Path("/var/cache/mine/ovengine")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert LoadOptions().cache_directory == Path("/srv/somebody/.cache/ovengine")


@pytest.mark.parametrize("options", [{"cache_dir": 3}, {"verify": "sometimes"}, {"verify": None}])
def test_arguments_that_make_no_sense(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        LoadOptions(**options)  # type: ignore[arg-type]  # what the test is about


def test_entries_are_for_their_owner_and_can_be_read_by_people(tmp_path: Path) -> None:
    Cache(tmp_path).save("proof", KEY, {"why": "two rows"})
    path = entry(tmp_path)
    assert os.stat(path).st_mode & 0o077 == 0
    assert json.loads(path.read_text()) == {"key": KEY, "value": {"why": "two rows"}}
