"""Folders of pictures: every picture is a row, whatever folders and files are called."""

import json

import PIL.Image
import pytest

from polyinr_hf.data.dataset import load_image_dataset


def write(folder, *names):
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (8, 8), (index, index, index)).save(folder / name)
    return folder


def rows(folder, tmp_path, **options):
    """[(value of the picture, class name)], sorted."""
    dataset = load_image_dataset(folder, cache_dir=str(tmp_path / "cache"), **options)
    found = []
    for index, row in enumerate(dataset.dataset):
        image, label = dataset.decode(row, index, 8)
        found.append((int(image[0, 0, 0]), None if label is None else dataset.id2label[label]))
    return sorted(found)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "classes",
    [
        ["car", "plane", "train", "ship"],
        ["train", "test tube"],
        ["cat", "dev", "val"],
        ["eval car", "test-tube", "training shoe"],
        ["a[1]", "b*", "c?"],
    ],
    ids=" ".join,
)
def test_classes_may_be_called_like_splits(tmp_path, classes, streaming):
    names = [f"{name}/{i}.png" for name in classes for i in range(2)]
    folder = write(tmp_path / "my [photos]", *names)
    expected = [(i, name.split("/")[0]) for i, name in enumerate(names)]
    assert rows(folder, tmp_path, streaming=streaming) == expected


def test_files_may_be_called_like_splits(tmp_path):
    names = ["x_train_1.png", "x_test_2.png", "val.png", "dev-3.PNG", "eval 4.jpg", "other.webp"]
    assert len(rows(write(tmp_path / "a", *names), tmp_path)) == 6
    names = [f"{name}/x_{part}_{i}.png" for name in "ab" for part in ("train", "test") for i in range(2)]
    assert [label for _, label in rows(write(tmp_path / "b", *names), tmp_path)] == ["a"] * 4 + ["b"] * 4


@pytest.mark.parametrize("test_name", ["test", "eval", "Testing"])
def test_folders_of_splits(tmp_path, test_name):
    folder = write(tmp_path / "a", "train/1.png", "train/2.png", f"{test_name}/3.png", "val/4.png")
    assert rows(folder, tmp_path) == [(0, None), (1, None)]
    assert rows(folder, tmp_path, split="test") == [(2, None)]
    assert rows(folder, tmp_path, split="validation") == [(3, None)]
    assert rows(folder, tmp_path, split="train[:1]+test") == [(0, None), (2, None)]
    with pytest.raises(ValueError, match=r"`split` must be one of \['test', 'train', 'validation'\], got 'other'"):
        rows(folder, tmp_path, split="other")


def test_splits_share_their_classes(tmp_path):
    folder = write(tmp_path / "a", "train/cat/1.png", "train/dog/2.png", "test/dog/3.png")
    assert rows(folder, tmp_path) == [(0, "cat"), (1, "dog")]
    dataset = load_image_dataset(folder, split="test", cache_dir=str(tmp_path / "cache"))
    assert dataset.id2label == {0: "cat", 1: "dog"} and len(dataset) == 1


def test_pictures_at_different_depths_are_all_there(tmp_path):
    assert len(rows(write(tmp_path / "a", "1.png", "b/2.png", "c/d/3.png"), tmp_path)) == 3


def test_hidden_files_are_passed_over(tmp_path):
    folder = write(tmp_path / "a", "1.png", ".trash/2.png", "__MACOSX/3.png", "._4.png")
    assert rows(folder, tmp_path) == [(0, None)]


def test_a_changed_picture_is_another_dataset(tmp_path):
    folder = write(tmp_path / "a", "1.png")
    before = load_image_dataset(folder).dataset._fingerprint
    assert load_image_dataset(folder).dataset._fingerprint == before
    PIL.Image.new("RGB", (9, 9)).save(folder / "1.png")
    assert load_image_dataset(folder).dataset._fingerprint != before


def test_a_path_that_datasets_would_take_for_a_pattern_is_refused_where_it_reads_the_folder(tmp_path):
    folder = write(tmp_path / "my [old] pictures", "1.png")
    assert len(rows(folder, tmp_path)) == 1
    (folder / "metadata.csv").write_text("file_name,text\n1.png,t\n")
    with pytest.raises(ValueError, match=r"`name_or_path` .* is '.*my \[old\] pictures'; rename the folder"):
        rows(folder, tmp_path)


def test_metadata_that_leave_out_pictures_are_an_error_that_names_them(tmp_path):
    folder = write(tmp_path / "a", "1.png", "2.png", "3.png")
    lines = [json.dumps({"file_name": name, "text": "t"}) for name in ("1.png", "2.png", "3.png")]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    assert len(rows(folder, tmp_path)) == 3
    (folder / "metadata.jsonl").write_text("\n".join(lines[:2]))
    with pytest.raises(ValueError, match=r"has 3 pictures, and `datasets` leaves out 1 of them: 3\.png"):
        rows(folder, tmp_path)
