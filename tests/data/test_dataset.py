"""Opening datasets of every kind, and making any image square RGB."""

import io
import logging

import datasets
import numpy as np
import PIL.Image
import pyarrow
import pytest
import torch
from pyarrow import parquet

from polyinr_hf.data.dataset import CorruptImageError, ImageDataset, image_batches, load_image_dataset
from polyinr_hf.images import preprocess_image, to_float, to_rgb

NAMES = ["tench, Tinca tinca", "goldfish, Carassius auratus"]


def encode(image, format="PNG", **kwargs):
    buffer = io.BytesIO()
    image.save(buffer, format, **kwargs)
    return {"bytes": buffer.getvalue(), "path": None}


def solid(value, size=8):
    return PIL.Image.new("RGB", (size, size), (value, value, value))


def make_dataset(num_images=6, label=None, **columns):
    images = [encode(solid(i)) for i in range(num_images)]
    features = {"image": datasets.Image(), "label": label or datasets.ClassLabel(names=NAMES)}
    features |= {name: datasets.Value("string") for name in columns}
    rows = {"image": images, "label": [i % 2 for i in range(num_images)], **columns}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def values_of(dataset):
    return [(int(dataset.decode(row, i, 8)[0][0, 0, 0]), row["label"]) for i, row in enumerate(dataset.dataset)]


# --- opening ----------------------------------------------------------------------------------------------------------


def write_imagefolder(dataset, folder):
    for i, row in enumerate(dataset):
        file = folder / ("a", "b")[row["label"]] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        row["image"].save(file)
    return folder


def write_parquet_file(dataset, folder):
    dataset.to_parquet(str(folder / "images.parquet"))
    return folder / "images.parquet"


def write_parquet_folder(dataset, folder):
    (folder / "data").mkdir()
    dataset.to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
    return folder


def write_saved(dataset, folder):
    dataset.save_to_disk(str(folder / "saved"))
    return folder / "saved"


def write_saved_dict(dataset, folder):
    datasets.DatasetDict({"train": dataset}).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def write_arrow_file(dataset, folder):
    return next(write_saved(dataset, folder).glob("*.arrow"))


WRITERS = [
    write_imagefolder,
    write_parquet_file,
    write_parquet_folder,
    write_saved,
    write_saved_dict,
    write_arrow_file,
]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("write", WRITERS)
def test_every_kind_of_dataset_gives_the_same_images_and_labels(tmp_path, write, streaming):
    path = write(make_dataset(), tmp_path)
    dataset = load_image_dataset(path, streaming=streaming, cache_dir=str(tmp_path / "cache"))
    assert dataset.streaming == streaming
    assert dataset.id2label == dict(enumerate(["a", "b"] if write is write_imagefolder else NAMES))
    assert sorted(values_of(dataset)) == [(i, i % 2) for i in range(6)]


def test_split_slices(tmp_path):
    path = write_parquet_folder(make_dataset(), tmp_path)
    assert len(load_image_dataset(path, split="train[:2]", cache_dir=str(tmp_path / "cache"))) == 2


CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"


def write_declared(folder, values):
    """A parquet folder whose card says which files are which: pictures of these values."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(CARD)
    rows = {"image": [encode(solid(value)) for value in values]}
    rows = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()}))
    rows.to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
    return folder


def load_values(folder, cache):
    """The fingerprint, and the values of the pictures."""
    dataset = load_image_dataset(folder, cache_dir=str(cache))
    values = [int(dataset.decode(row, i, 8)[0][0, 0, 0]) for i, row in enumerate(dataset.dataset)]
    return dataset.dataset._fingerprint, values


def test_local_folders_of_one_name_have_rows_of_their_own_each_prepared_once(tmp_path):
    cache = tmp_path / "cache"
    folders = [write_declared(tmp_path / top / "pets", values) for top, values in (("a", [1, 2]), ("b", [3, 4]))]
    loaded = [load_values(folder, cache) for folder in folders]
    assert [values for _, values in loaded] == [[1, 2], [3, 4]]
    assert loaded[0][0] != loaded[1][0]
    prepared = {file: file.stat().st_mtime_ns for file in cache.rglob("*.arrow")}
    assert len(prepared) == 2
    assert [load_values(folder, cache) for folder in folders] == loaded
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*.arrow")} == prepared


def test_a_local_folder_written_anew_has_its_new_rows(tmp_path):
    folder, cache = write_declared(tmp_path / "pets", [1, 2]), tmp_path / "cache"
    fingerprint, values = load_values(folder, cache)
    assert values == [1, 2]
    new_fingerprint, values = load_values(write_declared(folder, [3, 4]), cache)
    assert values == [3, 4] and new_fingerprint != fingerprint


def test_wrong_path_file_and_split_are_named(tmp_path):
    with pytest.raises(ValueError, match="`name_or_path` must be a local file or folder or a Hub id"):
        load_image_dataset(tmp_path / "nowhere")
    (tmp_path / "images.rar").touch()
    with pytest.raises(ValueError, match="parquet"):
        load_image_dataset(tmp_path / "images.rar")
    with pytest.raises(ValueError, match="`split` must be one of .*train.*, got 'test'"):
        load_image_dataset(write_saved_dict(make_dataset(), tmp_path), split="test")


# --- columns and labels -----------------------------------------------------------------------------------------------


def test_columns_found_by_type_or_given():
    dataset = make_dataset(color=list("rgbrgb")).rename_columns({"image": "photo", "label": "species"})
    found = ImageDataset(dataset)
    assert (found.image_column, found.label_column, found.num_classes) == ("photo", "species", 2)
    given = ImageDataset(dataset, label_column="color")
    assert given.id2label == {0: "b", 1: "g", 2: "r"}
    assert [given.decode(row, 0, 8)[1] for row in given.dataset] == [2, 1, 0, 2, 1, 0]


def test_integer_labels_are_classes():
    dataset = ImageDataset(make_dataset(label=datasets.Value("int32")), label_column="label")
    assert dataset.id2label == {0: "0", 1: "1"}


def test_ids_with_gaps_are_the_classes_that_occur(caplog):
    years = make_dataset(label=datasets.Value("int64")).map(lambda row: {"label": 2019 + 30_000_000 * row["label"]})
    dataset = ImageDataset(years, class_conditional=True)
    assert dataset.id2label == {0: "2019", 1: "30002019"}
    assert [dataset.decode_row(i, 8)[1] for i in range(4)] == [0, 1, 0, 1]
    assert caplog.records == []
    empty = make_dataset(label=datasets.ClassLabel(names=["hen", "owl", "emu"]))
    assert ImageDataset(empty).id2label == {0: "hen", 1: "owl", 2: "emu"}
    assert [record.getMessage() for record in caplog.records] == ["1 of 3 classes have no picture: emu"]


@pytest.mark.parametrize("label", [datasets.Value("int32"), datasets.Value("string"), datasets.Value("large_string")])
def test_a_column_called_label_is_the_classes(label):
    dataset = ImageDataset(make_dataset(label=label), class_conditional=True, class_name="unused")
    assert (dataset.label_column, dataset.id2label) == ("label", {0: "0", 1: "1"})
    other = make_dataset(label=datasets.Value("float32"))
    assert ImageDataset(other).id2label is None
    with pytest.raises(ValueError, match="must hold ClassLabel, integers or strings, 'label' is Value"):
        ImageDataset(other, class_conditional=True, class_name="unused")


def test_class_names_are_in_composed_letters():
    names = ["cafe\u0301", "caf\u00e9", "bar"]
    rows = make_dataset(3, datasets.Value("string")).remove_columns("label").add_column("label", names)
    dataset = ImageDataset(rows)
    assert dataset.id2label == {0: "bar", 1: "caf\u00e9"}
    assert [dataset.decode_row(i, 8)[1] for i in range(3)] == [1, 1, 0]
    rows = make_dataset(label=datasets.ClassLabel(names=["bar", "cafe\u0301"]))
    assert ImageDataset(rows).id2label == {0: "bar", 1: "caf\u00e9"}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
@pytest.mark.parametrize("fields", [["bytes", "path"], ["path", "bytes"]])
def test_images_as_pandas_and_spark_write_them(tmp_path, fields, kind, streaming):
    """Structs of bytes and a path that may be null, without the types of Hugging Face beside them."""
    columns = {
        "bytes": pyarrow.array([encode(solid(i))["bytes"] for i in range(3)], kind),
        "path": pyarrow.nulls(3) if kind == pyarrow.binary() else pyarrow.array([f"{i}.png" for i in range(3)]),
    }
    images = pyarrow.StructArray.from_arrays([columns[name] for name in fields], fields)
    (tmp_path / "photos").mkdir()
    parquet.write_table(pyarrow.table({"photo": images}), tmp_path / "photos" / "images.parquet")
    options = {"streaming": streaming, "cache_dir": str(tmp_path / "cache")}
    for column in (None, "photo"):
        dataset = load_image_dataset(tmp_path / "photos", image_column=column, **options)
        values = [int(dataset.decode(row, i, 8)[0][0, 0, 0]) for i, row in enumerate(dataset.dataset)]
        assert (dataset.image_column, values) == ("photo", [0, 1, 2])


def test_labels_of_selected_rows_only():
    dataset = make_dataset(color=["r", None, "g", None, "b", None]).filter(lambda row: row["color"] is not None)
    assert ImageDataset(dataset, label_column="color").num_classes == 3


def test_paths_as_images(tmp_path):
    solid(7).save(tmp_path / "seven.png")
    dataset = datasets.Dataset.from_dict({"file": [str(tmp_path / "seven.png")]})
    dataset = ImageDataset(dataset, image_column="file")
    assert dataset.decode(dataset.dataset[0], 0, 8)[0].unique().tolist() == [7]


def test_labels_can_be_ignored_and_required():
    assert ImageDataset(make_dataset(), class_conditional=False).id2label is None
    unlabelled = make_dataset().remove_columns("label")
    assert ImageDataset(unlabelled).num_classes is None
    with pytest.raises(ValueError, match="needs labels.*columns are image"):
        ImageDataset(unlabelled, class_conditional=True)


@pytest.mark.parametrize(
    ("dataset", "arguments", "message"),
    [
        (make_dataset(0), {}, "`dataset` must have rows"),
        (make_dataset().remove_columns("image"), {}, "`image_column` must be given .* the columns are label"),
        (make_dataset(), {"image_column": "img"}, "`image_column` must be one of .*image.* got 'img'"),
        (make_dataset(), {"label_column": "class"}, "`label_column` must be one of .*label.* got 'class'"),
        (make_dataset(), {"image_column": "label"}, "`image_column` must hold images, 'label' does not"),
        (make_dataset(color=["r", None] * 3), {"label_column": "color"}, "3 rows without a class"),
        (make_dataset(label=datasets.Value("float32")), {"label_column": "label"}, "ClassLabel, integers or strings"),
        (make_dataset().map(lambda _: {"label": -1}), {}, "class ids 0..1, 'label' has -1..-1"),
        (make_dataset(color=list("rgbrgb")).to_iterable_dataset(), {"label_column": "color"}, "when streaming"),
    ],
)
def test_unusable_datasets_are_refused(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageDataset(dataset, **arguments)


# --- one image --------------------------------------------------------------------------------------------------------


def transparent_palette():
    image = PIL.Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.putpixel((0, 0), 0)
    return PIL.Image.open(io.BytesIO(encode(image, transparency=0)["bytes"]))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (PIL.Image.new("L", (4, 4), 100), (100, 100, 100)),
        (PIL.Image.new("1", (4, 4), 1), (255, 255, 255)),
        (PIL.Image.new("RGBA", (4, 4), (200, 0, 0, 0)), (255, 255, 255)),
        (PIL.Image.new("RGBA", (4, 4), (200, 0, 100, 128)), (227, 127, 177)),
        (PIL.Image.new("LA", (4, 4), (0, 0)), (255, 255, 255)),
        (PIL.Image.new("CMYK", (4, 4), (0, 255, 255, 0)), (255, 0, 0)),
        (PIL.Image.fromarray(np.full((4, 4), 257 * 90, np.uint16)), (90, 90, 90)),
        (PIL.Image.fromarray(np.full((4, 4), 257 * 90, np.int32)), (90, 90, 90)),
        (transparent_palette(), (200, 0, 0)),
    ],
)
def test_any_mode_becomes_rgb_on_white(image, expected):
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    assert rgb.getpixel((2, 2)) == expected


def test_transparent_palette_entry_becomes_white():
    assert to_rgb(transparent_palette()).getpixel((0, 0)) == (255, 255, 255)


def test_float_images_are_refused():
    with pytest.raises(ValueError, match="range"):
        to_rgb(PIL.Image.new("F", (4, 4)))


def test_exif_orientation_is_applied():
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4] = 255
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    stored = PIL.Image.fromarray(np.rot90(upright, 1).copy())
    image = PIL.Image.open(io.BytesIO(encode(stored, exif=exif)["bytes"]))
    assert (np.asarray(to_rgb(image)) == upright).all()


@pytest.mark.parametrize("size", [(12, 8), (8, 12)])
def test_center_crop(size):
    image = PIL.Image.new("RGB", size, "red")
    left, top = (size[0] - 8) // 2, (size[1] - 8) // 2
    image.paste("blue", (left, top, left + 8, top + 8))
    pixels = preprocess_image(image, 8)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == torch.uint8
    assert (pixels == torch.tensor([0, 0, 255], dtype=torch.uint8)[:, None, None]).all()


def test_resize_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = preprocess_image(PIL.Image.fromarray(stripes), 16).int()
    assert ((pixels[:, :, 2:-2] - 128).abs() < 8).all()  # sampling without a filter would give 0 or 255


def test_to_float_maps_bytes_to_minus_one_and_one():
    assert to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]
    assert to_float(torch.tensor([127, 128], dtype=torch.uint8)).sum().abs() < 1e-6


# --- a whole dataset, and broken images -------------------------------------------------------------------------------


def broken_dataset(tmp_path, broken=(2, 5), **options):
    """Six images in files, some cut off."""
    for i in range(6):
        data = encode(solid(i, 64))["bytes"]
        (tmp_path / f"{i}.png").write_bytes(data[:60] if i in broken else data)
    return load_image_dataset(tmp_path, cache_dir=str(tmp_path / "cache"), **options)


def test_image_batches_go_through_in_order():
    batches = list(image_batches(ImageDataset(make_dataset()), 8, 4, num_workers=1))
    assert [images.shape for images, _ in batches] == [(4, 3, 8, 8), (2, 3, 8, 8)]
    assert torch.cat([images[:, 0, 0, 0] for images, _ in batches]).tolist() == list(range(6))
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 1] * 3


def test_image_batches_refuse_streams():
    with pytest.raises(ValueError, match="streaming"):
        next(image_batches(ImageDataset(make_dataset().to_iterable_dataset()), 8, 4))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_broken_image_is_named(tmp_path, num_workers):
    with pytest.raises(CorruptImageError, match=r"image 2 \(.*2\.png\)"):
        list(image_batches(broken_dataset(tmp_path), 8, 6, num_workers=num_workers))


def test_broken_image_is_skipped_if_asked(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        ((images, _),) = image_batches(broken_dataset(tmp_path, skip_corrupt=True), 8, 6)
    assert images[:, 0, 0, 0].tolist() == [0, 1, 3, 3, 4, 0]
    assert [record.getMessage().split("(")[0] for record in caplog.records] == [
        "skipped: image 2 ",
        "skipped: image 5 ",
    ]


def test_only_broken_images_end_with_an_error(tmp_path):
    with pytest.raises(CorruptImageError, match="no image can be decoded"):
        list(image_batches(broken_dataset(tmp_path, range(6), skip_corrupt=True), 8, 6))


def test_a_draft_of_a_large_jpeg_is_close_and_of_others_the_same():
    """Smooth in the middle of what a stage of 16 pixels sees; a PNG and a small JPEG are decoded in full."""
    rng = np.random.default_rng(0)
    picture = PIL.Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((384, 256), PIL.Image.BICUBIC)
    rows = []
    for image, kind in ((picture, "JPEG"), (picture, "PNG"), (picture.resize((36, 24)), "JPEG")):
        file = io.BytesIO()
        image.save(file, kind, quality=95)
        rows.append({"bytes": file.getvalue(), "path": None})
    features = datasets.Features(image=datasets.Image())
    dataset = ImageDataset(datasets.Dataset.from_dict({"image": rows}, features=features))
    full, draft = (
        [dataset.decode(dataset.dataset[i], i, 16, draft=draft)[0].float() for i in range(3)] for draft in (False, True)
    )
    assert 0 < (full[0] - draft[0]).abs().mean() < 3
    for index in (1, 2):
        assert torch.equal(full[index], draft[index])


def test_rows_of_interpreter_formats_are_refused_without_starting_a_program(monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: pytest.fail("a program was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    rows = {"image": [{"bytes": eps, "path": "a.png"}]}
    features = datasets.Features({"image": datasets.Image()})
    dataset = ImageDataset(datasets.Dataset.from_dict(rows, features=features))
    with pytest.raises(CorruptImageError, match="image 0 .*not an image of a known format.*data.skip_corrupt=true"):
        dataset.decode(dataset.dataset[0], 0, 8)
