"""Sources of images: seeds, labels, upsampling, errors."""

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.data.dataset import ImageDataset, load_image_dataset
from polyinr_hf.evaluation.sources import (
    DatasetSource,
    PipelineSource,
    TensorSource,
    class_frequencies,
    class_ids,
    sample_generator,
)
from polyinr_hf.images import preprocess_image, to_uint8

FREQUENCIES = np.array([1, 0, 3])


def make_pipeline(num_classes=3):
    torch.manual_seed(0)
    model = PolyINRGenerator(z_dim=8, w_dim=8, channels=16, num_levels=3, num_classes=num_classes, sample_size=8)
    pipeline = PolyINRPipeline(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_dataset(labels=(0, 2, 2, 1, 2)):
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)) for _ in labels]
    kind = datasets.Value("string") if isinstance(labels[0], str) else datasets.ClassLabel(names=["a", "b", "c"])
    features = datasets.Features({"image": datasets.Image(), "label": kind})
    return datasets.Dataset.from_dict({"image": pictures, "label": list(labels)}, features=features), pictures


@pytest.fixture(scope="module")
def pipeline():
    return make_pipeline()


def test_an_image_depends_on_seed_and_index_only(pipeline):
    whole = PipelineSource(pipeline, 9, FREQUENCIES, seed=3).load(0, 9)
    parts = PipelineSource(pipeline, 20, FREQUENCIES, seed=3)  # more samples: the first ones stay
    parts = torch.cat([parts.load(0, 2), parts.load(2, 3), parts.load(3, 9)])
    assert (whole.int() - parts.int()).abs().max() <= 1  # rounding of another batch
    assert len({image.numpy().tobytes() for image in whole}) == 9
    other = PipelineSource(pipeline, 10, FREQUENCIES, seed=4)
    ours = {image.numpy().tobytes() for image in whole}
    assert not ours & {image.numpy().tobytes() for image in other.load(0, 10)}


def test_labels_follow_the_dataset(pipeline):
    labels = PipelineSource(pipeline, 4000, FREQUENCIES).labels
    share = np.bincount(labels, minlength=3) / 4000
    np.testing.assert_allclose(share, [0.25, 0, 0.75], atol=0.03)


def test_unconditional():
    source = PipelineSource(make_pipeline(None), 3, resolution=12)
    assert source.labels is None
    assert source.load(0, 3).shape == (3, 3, 12, 12)


def test_truncation_and_bfloat16_change_the_images(pipeline):
    plain = PipelineSource(pipeline, 4, FREQUENCIES).load(0, 4).int()
    half = PipelineSource(pipeline, 4, FREQUENCIES, dtype="bfloat16").load(0, 4).int()
    assert 0 < (plain - half).abs().max() < 30
    means = PipelineSource(pipeline, 4, FREQUENCIES, truncation_psi=0.0).load(0, 4)
    assert torch.equal(means[0], means[1])


def test_tolerance_draws_as_the_pipeline_does(pipeline):
    exact, drawn = (PipelineSource(pipeline, 2, FREQUENCIES, resolution=64, tolerance=t) for t in (0.0, 0.2))
    images = drawn.load(0, 2)
    generators = [sample_generator(0, index) for index in range(2)]
    labels = drawn.labels.tolist()
    expected = pipeline(labels, height=64, width=64, generator=generators, tolerance=0.2, output_type="pt").images
    assert torch.equal(images, to_uint8(expected, "images"))
    difference = (images.int() - exact.load(0, 2).int()).abs()
    assert 0 < difference.max() <= 0.2 * 255


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_upsampling(pipeline, mode):
    source = PipelineSource(pipeline, 2, FREQUENCIES, upsample_to=20, upsampling=mode)
    large = source.load(0, 2)
    small = PipelineSource(pipeline, 2, FREQUENCIES).load(0, 2).float()
    expected = F.interpolate(small, size=(20, 20), mode=mode).clamp(0, 255)
    assert large.shape == (2, 3, 20, 20)
    assert (large.float() - expected).abs().max() <= 2  # ours is rounded once, after
    assert (large.float().mean() - expected.mean()).abs() < 0.5


def test_keys_differ_by_all_that_matters(pipeline):
    base = {"num_samples": 5, "class_frequencies": FREQUENCIES}
    changes = [
        {},
        {"num_samples": 6},
        {"seed": 1},
        {"truncation_psi": 0.5},
        {"resolution": 9},
        {"dtype": "bfloat16"},
        {"tolerance": 0.1},
        {"upsample_to": 16},
        {"upsample_to": 16, "upsampling": "bicubic"},
        {"class_frequencies": FREQUENCIES[::-1]},
    ]
    keys = [str(PipelineSource(pipeline, **base | change).key) for change in changes]
    other = make_pipeline()
    with torch.no_grad():
        other.generator.to_rgb.bias[0] += 1e-3
    keys.append(str(PipelineSource(other, **base).key))
    assert len(set(keys)) == len(changes) + 1
    assert str(PipelineSource(make_pipeline(), **base).key) == keys[0]


def test_dataset():
    rows, pictures = make_dataset()
    source = DatasetSource(ImageDataset(rows), 6)
    assert len(source) == 5
    expected = torch.stack([preprocess_image(picture, 6) for picture in pictures])
    assert torch.equal(source.load(1, 4), expected[1:4])
    assert source.key != DatasetSource(ImageDataset(rows), 7).key
    mirror = DatasetSource(ImageDataset(rows), 6, mirror=True)
    assert len(mirror) == 10 and mirror.key != source.key
    assert torch.equal(mirror.load(3, 8), torch.cat([expected[3:], expected[:3].flip(3)]))
    assert source.key != DatasetSource(ImageDataset(rows.select(range(4))), 6).key


def test_local_folders_of_one_name_are_not_each_others_reference(tmp_path):
    card = "---\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n---\n"
    keys = []
    for top, color in (("a", "red"), ("b", "blue")):
        folder, saved = tmp_path / top / "pets", tmp_path / top / "saved"
        (folder / "data").mkdir(parents=True)
        (folder / "README.md").write_text(card)
        features = datasets.Features({"image": datasets.Image()})
        rows = datasets.Dataset.from_dict({"image": [Image.new("RGB", (8, 8), color)]}, features=features)
        rows.to_parquet(folder / "data" / "pets.parquet")
        # Prepared in caches of their own, both have the same fingerprint.
        rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / top / "cache"))
        rows.save_to_disk(saved)
        opened = [load_image_dataset(path, cache_dir=str(tmp_path / "cache")) for path in (folder, saved) * 2]
        keys.append([DatasetSource(dataset, 8).key for dataset in opened])
        assert keys[-1][:2] == keys[-1][2:]  # unchanged, they are the same reference
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] != keys[1][1]


@pytest.mark.parametrize("labels", [(0, 2, 2, 1, 2), ("x", "z", "z", "y", "z")])
def test_class_ids_and_frequencies(labels):
    dataset = ImageDataset(make_dataset(labels)[0], label_column="label")
    assert class_ids(dataset).tolist() == [0, 2, 2, 1, 2]
    assert class_frequencies(dataset).tolist() == [1, 1, 3]
    assert class_frequencies(ImageDataset(make_dataset()[0], class_conditional=False)) is None


def test_bad_sources(pipeline):
    with pytest.raises(ValueError, match="`class_frequencies` must be of the pipeline's 3 classes, got 4"):
        PipelineSource(pipeline, 3, np.ones(4))
    with pytest.raises(ValueError, match="`class_frequencies` must be those .* classes, got None.*`label_column`"):
        PipelineSource(pipeline, 3)
    with pytest.raises(ValueError, match="`num_samples` must be .* got 0"):
        PipelineSource(pipeline, 0, FREQUENCIES)
    with pytest.raises(ValueError, match="`seed` must be .* got -1"):
        PipelineSource(pipeline, 3, FREQUENCIES, seed=-1)
    with pytest.raises(ValueError, match="`tolerance` must be a finite number from 0, got -0.1"):
        PipelineSource(pipeline, 3, FREQUENCIES, tolerance=-0.1)
    with pytest.raises(ValueError, match="got 'cubic'"):
        PipelineSource(pipeline, 3, FREQUENCIES, upsampling="cubic")
    with pytest.raises(ValueError, match=r"got \(2, 1, 4, 4\)"):
        TensorSource(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"`images` must be .* got \(0, 3, 4, 4\)"):
        TensorSource(torch.zeros(0, 3, 4, 4))
    with pytest.raises(ValueError, match="streaming"):
        DatasetSource(ImageDataset(make_dataset()[0].to_iterable_dataset()), 8)


def test_nan_images():
    broken = make_pipeline()
    with torch.no_grad():
        broken.generator.to_rgb.bias[1] = float("nan")
    with pytest.raises(ValueError, match="weights that do: to_rgb.bias"):
        PipelineSource(broken, 8, FREQUENCIES).load(2, 5)
    images = torch.zeros(2, 3, 4, 4)
    images[1, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="must be finite, got NaN or infinite pixels"):
        TensorSource(images)


def test_to_uint8_rounds_and_clips():
    values = torch.tensor([-0.1, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.2])
    assert to_uint8(values, "values").tolist() == [0, 0, 0, 1, 255, 255]
