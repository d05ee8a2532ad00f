import pytest

from polyinr_hf.checks import check_new_folder
from polyinr_hf.files import replace_file, replace_folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_appears_whole(tmp_path):
    with replace_folder(tmp_path / "a" / "b") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "one").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert contents(tmp_path) == {"a/b/sub/one": "1"}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_an_old_folder_is_replaced_not_merged(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("old")
    with replace_folder(target) as folder:
        (folder / "new").write_text("new")
        assert contents(target) == {"old": "old"}
    assert contents(tmp_path) == {"target/new": "new"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interruption_leaves_what_was_there(tmp_path, error):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("old")
    for path in (target, tmp_path / "fresh"):
        with pytest.raises(error), replace_folder(path) as folder:
            (folder / "half").write_text("half")
            raise error
    assert contents(tmp_path) == {"target/old": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_failed_swap_puts_the_old_folder_back(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(OSError), replace_folder(target) as folder:
        folder.rmdir()  # now the new one cannot take its place
    assert contents(tmp_path) == {"target/old": "old"}


def test_a_relative_path_and_the_permissions_of_other_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with replace_folder("here") as folder:
        (folder / "one").write_text("1")
    (tmp_path / "ordinary").mkdir()
    assert contents(tmp_path) == {"here/one": "1"}
    assert (tmp_path / "here").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_files_are_not_replaced(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match="`path` must be a folder"), replace_folder(file):
        pass
    assert contents(tmp_path) == {"file": "mine"}


def test_only_new_and_empty_folders_pass_the_check(tmp_path):
    check_new_folder(tmp_path)
    check_new_folder(tmp_path / "new")
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="`output` must be a new or empty folder"):
            check_new_folder(path)


def test_a_file_is_replaced_when_it_is_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "result.json"
    with replace_file(path) as partial:
        partial.write_text("one")
        assert partial.suffix == ".json" and not path.exists()
    with pytest.raises(KeyError), replace_file(path) as partial:
        partial.write_text("half")
        raise KeyError
    assert contents(tmp_path) == {"new/result.json": "one"}
