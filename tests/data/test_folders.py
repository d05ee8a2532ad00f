"""Folders of pictures: every picture is a row, whatever folders and files are called."""

import json
import os
import zipfile

import datasets
import PIL.Image
import pytest
from loopback_hub import LoopbackHub, connect

from polyinr_hf.data.dataset import load_image_dataset


def write(folder, *names):
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (8, 8), (index, index, index)).save(folder / name)
    return folder


def pack(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


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


def test_the_one_class_is_called_as_the_folder_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = write(tmp_path / "birds.v2", "1.png")
    (folder / "README.md").touch()
    for path in (folder, "~/birds.v2", pack(folder, tmp_path / "birds.v2.zip")):
        assert rows(path, tmp_path, class_conditional=True) == [(0, "birds.v2")]
    (folder / "notes").mkdir()
    assert rows(write(folder, "wren/2.png"), tmp_path, class_conditional=True) == [(0, "birds.v2"), (0, "birds.v2")]
    (folder / "1.png").unlink()
    assert rows(folder, tmp_path, class_conditional=True) == [(0, "wren")]


def test_a_changed_picture_is_another_dataset(tmp_path):
    folder = write(tmp_path / "a", "1.png")
    before = load_image_dataset(folder).dataset._fingerprint
    assert load_image_dataset(folder).dataset._fingerprint == before
    PIL.Image.new("RGB", (9, 9)).save(folder / "1.png")
    assert load_image_dataset(folder).dataset._fingerprint != before


def test_a_path_that_datasets_would_take_for_a_pattern_is_refused_where_it_reads_the_folder(tmp_path):
    folder = write(tmp_path / "my [old] pictures", "1.png")
    (folder / "metadata.csv").write_text("file_name,text\n1.png,t\n")
    assert len(rows(folder, tmp_path)) == 1
    (folder / "1.png").unlink()
    (folder / "metadata.csv").rename(folder / "rows.csv")
    with pytest.raises(ValueError, match=r"`name_or_path` must be a path without .* got '.*my \[old\] pictures'"):
        rows(folder, tmp_path)


# --- StyleGAN's dataset.json ------------------------------------------------------------------------------------------


def write_stylegan(folder, labels):
    """Four pictures in two shard folders, with these labels."""
    names = [f"0000{i % 2}/img0000000{i}.png" for i in range(4)]
    write(folder, *names)
    pairs = labels and [[name, label] for name, label in zip(names, labels, strict=True)]
    (folder / "dataset.json").write_text(json.dumps({"labels": pairs}))
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_stylegans_labels_are_the_classes_and_not_its_shards(tmp_path, streaming):
    folder = write_stylegan(tmp_path / "sg", [7, 12, 7, 3])
    expected = [(0, "7"), (1, "12"), (2, "7"), (3, "3")]
    assert rows(folder, tmp_path, class_conditional=True, streaming=streaming) == expected
    assert rows(pack(folder, tmp_path / "packed.zip"), tmp_path, streaming=streaming) == expected
    assert load_image_dataset(folder).id2label == {0: "3", 1: "7", 2: "12"}
    moved = tmp_path / "split"
    moved.mkdir()
    folder.rename(moved / "train")
    assert rows(moved, tmp_path) == expected


def test_stylegans_null_is_no_classes(tmp_path):
    folder = write_stylegan(tmp_path / "sg", None)
    assert rows(folder, tmp_path) == [(i, None) for i in range(4)]
    assert rows(folder, tmp_path, class_conditional=True) == [(i, "sg") for i in range(4)]


def test_another_programs_dataset_json_is_left_out(tmp_path):
    folder = write(tmp_path / "a", "cat/1.png", "dog/2.png")
    (folder / "dataset.json").write_text('{"name": "pets"}')
    assert rows(folder, tmp_path) == [(0, "cat"), (1, "dog")]


def test_stylegans_labels_that_do_not_fit_are_named(tmp_path):
    folder = write_stylegan(tmp_path / "sg", [0, 1, 0, 1])
    write(folder, "00002/new.png")
    with pytest.raises(ValueError, match=r"must have a label in dataset\.json for 00002/new\.png, got none"):
        rows(folder, tmp_path)
    for label in ([0.0, 1.0], -1, "cat"):
        with pytest.raises(ValueError, match=r"must have class ids of 0 and more in dataset\.json, got "):
            rows(write_stylegan(tmp_path / "odd", [label, 0, 0, 0]), tmp_path)


# --- metadata ---------------------------------------------------------------------------------------------------------


def write_metadata(folder, lines, name="metadata.jsonl"):
    (folder / name).write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("labels", [["wren", "robin", "wren"], [2021, 2019, 2021]], ids=["text", "numbers"])
def test_metadatas_label_column_is_the_classes(tmp_path, labels, streaming):
    folder = write(tmp_path / "a", "1.png", "x/2.png", "3.png")
    lines = [{"file_name": n, "label": v} for n, v in zip(["1.png", "x/2.png", "3.png"], labels, strict=True)]
    write_metadata(folder, lines)
    expected = [(i, str(label)) for i, label in enumerate(labels)]
    assert rows(folder, tmp_path, class_conditional=True, streaming=streaming) == expected


@pytest.mark.parametrize("streaming", [False, True])
def test_another_column_of_metadata_can_be_named(tmp_path, streaming):
    folder = write(tmp_path / "a", "c/1.png", "d/2.png")
    write_metadata(folder, [{"file_name": "c/1.png", "kind": "x"}, {"file_name": "d/2.png", "kind": "y"}])
    assert rows(folder, tmp_path, label_column="kind", streaming=streaming) == [(0, "x"), (1, "y")]
    assert rows(folder, tmp_path, streaming=streaming) == [(0, "c"), (1, "d")]


def test_captions_alone_leave_the_class_folders(tmp_path):
    folder = write(tmp_path / "a", "cat/1.png", "dog/2.png", "dog/3.png")
    names = ["dog/3.png", "cat/1.png", "dog/2.png", "cat/1.png"]  # in an order of its own, one of them twice
    write_metadata(folder, [{"file_name": name, "text": name} for name in names])
    assert rows(folder, tmp_path, class_conditional=True) == [(0, "cat"), (0, "cat"), (1, "dog"), (2, "dog")]
    dataset = load_image_dataset(folder, cache_dir=str(tmp_path / "cache"), label_column="text")
    assert [dataset.id2label[dataset.decode_row(i, 8)[1]] for i in range(4)] == names


def test_metadata_of_each_split(tmp_path):
    folder = write(tmp_path / "a", "train/1.png", "train/2.png", "test/3.png")
    write_metadata(folder / "train", [{"file_name": "2.png", "label": "b"}, {"file_name": "1.png", "label": "a"}])
    write_metadata(folder / "test", [{"file_name": "3.png", "label": "b"}])
    assert rows(folder, tmp_path) == [(0, "a"), (1, "b")]
    assert rows(folder, tmp_path, split="test") == [(2, "b")]


def test_metadata_that_do_not_fit_the_pictures_are_an_error_that_names_them(tmp_path):
    folder = write(tmp_path / "a", "1.png", "2.png", "3.png")
    lines = [{"file_name": name, "text": "t"} for name in ("1.png", "2.png", "3.png")]
    assert len(rows(write_metadata(folder, lines), tmp_path)) == 3
    with pytest.raises(ValueError, match=r"has 3 pictures, and metadata\.jsonl leaves out 1 of them: 3\.png"):
        rows(write_metadata(folder, lines[:2]), tmp_path)
    with pytest.raises(ValueError, match=r"has no pictures 4\.png, which metadata\.jsonl names"):
        rows(write_metadata(folder, [*lines, {"file_name": "4.png", "text": "t"}]), tmp_path)
    with pytest.raises(ValueError, match=r"must have a column file_name in metadata\.jsonl, got \['image'\]"):
        rows(write_metadata(folder, [{"image": "1.png"}]), tmp_path)


# --- what lies beside pictures, and what hides them -------------------------------------------------------------------


def test_what_is_left_out_is_said_in_a_line(tmp_path, caplog):
    folder = write(tmp_path / "a", "cat/1.png", "__dog/2.avif", ".trash/3.png", "__MACOSX/4.png", "cat/._5.png")
    for name in ("cat/6.heic", "cat/1.json", "labels.csv", "old.7z", "notes.txt"):
        (folder / name).touch()
    assert rows(folder, tmp_path) == [(0, "cat"), (1, "__dog")]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{folder}: 2 pictures, classes by folder (__dog, cat); left out: hidden pictures (.trash/3.png, "
        "__MACOSX/4.png, cat/._5.png), pictures of a format that is not read (cat/6.heic), archives to be unpacked "
        "first (old.7z), tables not called metadata.csv, .jsonl or .parquet (cat/1.json, labels.csv)"
    )


def test_tables_beside_splits_leave_the_splits(tmp_path):
    folder = write(tmp_path / "a", "train/1.png", "train/2.png", "test/3.png")
    (folder / "labels.csv").write_text("id,breed\n1,pug\n")
    datasets.Dataset.from_dict({"embedding": [1.0, 2.0]}).to_parquet(str(folder / "embeddings.parquet"))
    assert rows(folder, tmp_path) == [(0, None), (1, None)]
    assert rows(folder, tmp_path, split="test") == [(2, None)]


def test_links_lead_to_each_picture_once(tmp_path):
    folder, outside = write(tmp_path / "a", "cat/1.png", "dog/2.png"), write(tmp_path / "b", "bird/3.png")
    (folder / "dog" / "up").symlink_to("..")
    (folder / "again").symlink_to(folder / "cat")
    (folder / "everything").symlink_to(tmp_path)
    (folder / "more").symlink_to(outside)
    (outside / "bird" / "round").symlink_to(folder)
    found = rows(folder, tmp_path)
    assert sorted(label for _, label in found if label) == [] and len(found) == 3  # at different depths: no classes
    (folder / "more").unlink()
    (folder / "bird").symlink_to(outside / "bird")
    assert sorted(rows(folder, tmp_path)) == [(0, "bird"), (0, "cat"), (1, "dog")]


def test_zips(tmp_path):
    """Beside pictures they are left out; alone they are read: one as a folder, several as folders of their names."""
    folder = write(tmp_path / "pets", "cat/1.png", "dog/2.png")
    expected = [(0, "cat"), (1, "dog")]
    pack(folder, tmp_path / "all.zip")
    assert rows(tmp_path / "all.zip", tmp_path) == expected
    alone = tmp_path / "alone"
    alone.mkdir()
    (tmp_path / "all.zip").rename(alone / "all.zip")
    assert rows(alone, tmp_path) == expected
    for name in ("cat", "dog"):
        pack(folder / name, alone / f"{name}.zip")
    (alone / "all.zip").rename(folder / "all.zip")
    assert rows(folder, tmp_path) == rows(alone, tmp_path) == expected
    write(tmp_path / "pets", "cat/3.png", "cat/4.png")
    pack(folder / "cat", alone / "cat.zip")  # changed: unpacked anew
    assert len(rows(alone, tmp_path)) == 4


def test_archives_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"must be a zip that can be unpacked, .*x\.zip: File is not a zip file"):
        rows(tmp_path / "a", tmp_path)
    (tmp_path / "a" / "x.zip").rename(tmp_path / "a" / "x.tar.gz")
    with pytest.raises(ValueError, match=r"got .*; left out: archives to be unpacked first \(x\.tar\.gz\)"):
        rows(tmp_path / "a", tmp_path)


def test_names_that_are_not_utf_8_are_named(tmp_path):
    folder = write(tmp_path / "a", "1.png")
    (folder / os.fsdecode(b"caf\xe9.txt")).touch()
    assert len(rows(folder, tmp_path)) == 1
    (folder / "1.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    with pytest.raises(ValueError, match=r"must hold pictures named in UTF-8, got b'caf\\xe9\.png' in .*convmv"):
        rows(folder, tmp_path)


def test_letters_may_be_composed_or_not(tmp_path):
    """As a Mac writes them, "e" and an accent, in names of folders and in tables; classes are composed."""
    mac, other = "cafe\u0301", "caf\u00e9"
    folder = write(tmp_path / "a", f"{mac}/1.png", f"{other}/2.png", "bar/3.png")
    expected = [(0, other), (1, other), (2, "bar")]
    assert rows(folder, tmp_path) == expected
    folder = write(tmp_path / "b", f"{mac}/1.png", "bar/2.png")
    write_metadata(folder, [{"file_name": f"{other}/1.png", "label": mac}, {"file_name": "bar/2.png", "label": "bar"}])
    assert rows(folder, tmp_path) == [(0, other), (1, "bar")]


# --- repositories -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub() as hub:
        hub.add_user("ann", "hf_" + "t" * 30)
        connect(monkeypatch, hub, tmp_path / "home", "hf_" + "t" * 30)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        yield hub


def share(hub, folder, repo_id="ann/pictures", **more):
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.add_repository(repo_id, files | more, repo_type="dataset")
    return repo_id


@pytest.mark.parametrize("streaming", [False, True])
def test_a_repositorys_pictures_are_all_there(hub, tmp_path, streaming):
    classes = ["train tracks", "test tube", "cat"]
    folder = write(tmp_path / "a", *(f"{name}/x_{part}.png" for name in classes for part in ("train", "val")))
    expected = [(i, classes[i // 2]) for i in range(6)]
    assert rows(share(hub, folder), tmp_path, streaming=streaming) == expected
    flat = write(tmp_path / "b", "1.png", "2.png")
    found = rows(share(hub, flat, "ann/birds"), tmp_path, class_conditional=True, streaming=streaming)
    assert found == [(0, "birds"), (1, "birds")]


@pytest.mark.parametrize("packed", [False, True])
def test_a_repository_in_stylegans_layout(hub, tmp_path, packed):
    folder = write_stylegan(tmp_path / "sg", [7, 12, 7, 3])
    expected = [(0, "7"), (1, "12"), (2, "7"), (3, "3")]
    if packed:
        (tmp_path / "packed").mkdir()
        folder = pack(folder, tmp_path / "packed" / "sg.zip").parent
    repo_id = share(hub, folder)
    for streaming in (True, False):
        assert rows(repo_id, tmp_path, streaming=streaming) == expected


def test_a_repository_is_read_again_without_a_network(hub, tmp_path):
    repo_id = share(hub, write(tmp_path / "a", "cat/1.png", "dog/2.png"))
    assert rows(repo_id, tmp_path) == [(0, "cat"), (1, "dog")]
    hub.fail("GET", "^/api/", times=100, status=503)
    assert rows(repo_id, tmp_path) == [(0, "cat"), (1, "dog")]


def test_tables_that_datasets_leaves_out_are_said(hub, tmp_path, caplog):
    """It takes "train tracks" for a split, and the only one."""
    folder = write(tmp_path / "a", "teaser.png")
    features = datasets.Features(image=datasets.Image())
    table = datasets.Dataset.from_dict({"image": [str(folder / "teaser.png")]}, features)
    for name in ("train tracks", "tunnels"):
        table.to_parquet(str(folder / f"{name}.parquet"))
    for source in (share(hub, folder), str(folder)):
        assert len(rows(source, tmp_path)) == 1
        assert f"{source}: 2 of 3 files are in none of its splits: tunnels.parquet, teaser.png" in caplog.text


def test_pictures_that_a_repositorys_card_leaves_out_are_said(hub, tmp_path, caplog):
    card = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: cat/*}\n---\n"
    repo_id = share(hub, write(tmp_path / "a", "cat/1.png", "dog/2.png"), **{"README.md": card})
    assert rows(repo_id, tmp_path) == [(0, None)]
    assert f"{repo_id}: 1 of 2 files are in none of its splits: dog/2.png" in caplog.text
