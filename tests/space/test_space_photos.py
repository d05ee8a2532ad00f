import numpy as np
import photos
import pytest
import torch
from photos import RebuiltPhotos, open_photo
from PIL import Image
from settings import MAX_UPLOAD_PIXELS


def test_a_hostile_file_is_refused_with_a_sentence(hostile):
    path, sentence = hostile
    with pytest.raises(ValueError, match=sentence) as error:
        open_photo(path, 32)
    assert str(path.parent) not in str(error.value)  # nobody learns where files lie
    assert str(error.value).endswith(".")


def test_a_file_of_too_many_bytes_is_refused(photo, monkeypatch):
    monkeypatch.setattr(photos, "MAX_UPLOAD_BYTES", photo.stat().st_size - 1)
    with pytest.raises(ValueError, match="too large"):
        open_photo(photo, 32)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16", "CMYK", "1"])
@pytest.mark.parametrize("suffix", ["png", "tiff", "jpg", "webp", "gif"])
def test_honest_images_of_all_kinds_are_opened(mode, suffix, tmp_path):
    path = tmp_path / f"image.{suffix}"
    try:
        Image.new(mode, (50, 30), 1).save(path)
    except (OSError, ValueError, SystemError):
        pytest.skip("no such files")
    image = open_photo(path, 16)
    assert (image.mode, image.size) == ("RGB", (16, 16))


def test_the_middle_square_is_taken(tmp_path):
    stripes = np.zeros((20, 60, 3), np.uint8)
    stripes[:, 20:40] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    assert np.asarray(open_photo(tmp_path / "stripes.png", 20)).min() > 250


def test_the_largest_image_allowed_is_opened(tmp_path):
    side = int(MAX_UPLOAD_PIXELS**0.5)
    Image.new("1", (side, side)).save(tmp_path / "large.png")
    assert open_photo(tmp_path / "large.png", 8).size == (8, 8)


def test_photos_are_found_by_their_code_and_the_oldest_go():
    kept = RebuiltPhotos(max_photos=2)
    A = [torch.full((1, 2, 3, 3), float(i)) for i in range(3)]
    codes = [kept.keep(f"pipe {i}", a) for i, a in enumerate(A[:2])]
    assert kept.keep("pipe 0", A[0]) == codes[0]  # the same again, which is now the latest
    codes.append(kept.keep("pipe 2", A[2]))
    for i in (0, 2):
        pipe, a = kept.find(f" {codes[i]} ")
        assert pipe == f"pipe {i}"
        assert torch.equal(a, A[i])
    with pytest.raises(ValueError, match="no longer kept"):
        kept.find(codes[1])
