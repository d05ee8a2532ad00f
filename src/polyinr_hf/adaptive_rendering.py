"""Adaptive rendering: the network runs where the image has detail; smooth parts are interpolated.

The network is run on a coarse lattice of pixels. Then the pitch is halved, again and again, down to single pixels: each
new lattice point is predicted from its neighbors (four-point cubic, exact for quadratics), and the network is run only
where that prediction is in doubt. This file needs torch only; it travels with modeling_poly_inr.py.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# The first lattice takes at least every 4th pixel, so that there is something to save at sizes near the trained one.
MIN_PITCH = 4
# A step edge somewhere between two points is missed by up to a quarter of its third difference: two steps high, and the
# midpoint is predicted half a step off.
DOUBT = 0.25
# Matrix products of fewer rows may take another path through the processor, with other last bits.
MIN_ROWS = 64


@dataclass
class Lattice:
    """Every `pitch`-th pixel of an image, from the first on; the last row and column may lie past its border.

    values: Colors (3, h, w), float32.
    ran: Where the network was run (h, w), bool; elsewhere the color is interpolated.
    num_points: Points that the network was run at so far, those past the border included.
    """

    values: Tensor
    ran: Tensor
    pitch: int
    num_points: int

    def enlarge(self, height: int, width: int) -> Tensor:
        """A preview (3, height, width) in full size."""
        if self.pitch == 1:
            return self.values
        size = [(side - 1) * self.pitch + 1 for side in self.values.shape[1:]]  # pixels from first to last point
        large = torch.nn.functional.interpolate(self.values[None], size, mode="bilinear", align_corners=True)
        return large[0, :, :height, :width]


def first_pitch(height: int, width: int, extent: tuple[float, float, float, float], sample_size: int) -> int:
    """Pitch in pixels, a power of two, of the first lattice.

    The distance of two pixels of the `sample_size` the model was trained at, rounded down, and at least `MIN_PITCH`:
    finer details were never trained, and a line one such pixel wide meets a point in every row or column it crosses.
    """
    top, left, bottom, right = extent
    sides = ((height, bottom - top), (width, right - left))
    trained = min((max(count, 2) - 1) / length for count, length in sides) / max(sample_size - 1, 1)
    return 2 ** math.floor(math.log2(max(trained, MIN_PITCH)) + 1e-9)


def refine(
    colors: Callable[[Tensor], Tensor], rows: Tensor, columns: Tensor, pitch: int, tolerance: float, chunk_size: int
) -> Iterator[Lattice]:
    """Yields the lattices of an image, from `pitch` halved down to 1, the image itself (3, H, W).

    A new point is run where the doubt in its prediction, `DOUBT` times the third difference of the values around it,
    reaches `tolerance / pitch`. Where the prediction turns out to be that wrong, the eight points around it are run,
    those interpolated on coarser lattices among them, and so on until none is wrong: an edge is followed to its end.
    Coarse lattices, where a point is cheap and many pixels follow from it, are thus held to stricter tolerances.

    Args:
        colors: The network, coordinates (N, 2) -> colors (N, 3).
        rows, columns: Coordinates (H,), (W,) of the pixels, evenly spaced. Of a side too short for cubic interpolation
            every pixel is run.
        pitch: Of the first lattice, a power of two. Details that lie between its points may be missed.
        tolerance: Of a pixel, as a difference of colors; 0 runs the network at every pixel.
        chunk_size: Points run at once.
    """
    height, width = len(rows), len(columns)
    while pitch > 1 and min(height, width) <= 3 * pitch:
        pitch //= 2
    rows, columns = _extend(rows, pitch), _extend(columns, pitch)
    num_points = 0

    def run(index: Tensor, step: int) -> Tensor:
        """Colors (N, 3) of points of the lattice of pitch `step`."""
        row, column = _unravel(index, ran.shape[1])
        coordinates = torch.stack([rows[row * step], columns[column * step]], dim=1)  # (N, 2)
        padding = max(0, MIN_ROWS - len(index))
        return colors(torch.cat([coordinates, coordinates[:1].expand(padding, 2)]))[: len(index)].float()

    values = doubt = None
    ran = rows.new_zeros(0, 0, dtype=torch.bool)
    while True:
        shape = [-(-(side - 1) // pitch) + 1 for side in (height, width)]
        if values is None:
            values = rows.new_empty(3, *shape)
            ran = torch.zeros(shape, dtype=torch.bool, device=rows.device)
            doubtful = ~ran
        else:
            values, doubt = _predict(values, shape)
            ran, coarse = torch.zeros(shape, dtype=torch.bool, device=rows.device), ran
            ran[::2, ::2] = coarse[: (shape[0] + 1) // 2, : (shape[1] + 1) // 2]
            doubtful = doubt >= tolerance / pitch
        flat = values.flatten(1)  # (3, h * w), a view
        index = (doubtful & ~ran).flatten().nonzero().squeeze(1)  # (N,)
        while len(index):
            num_points += len(index)
            wrong = []
            for part in index.split(chunk_size):
                rgb = run(part, pitch).t()  # (3, N)
                if doubt is not None:
                    wrong.append(part[(rgb - flat[:, part]).abs().amax(dim=0) >= tolerance / pitch])
                flat[:, part] = rgb
            ran.view(-1)[index] = True
            index = _neighbors(torch.cat(wrong), ran) if wrong else index[:0]
        yield Lattice(values, ran, pitch, num_points)
        if pitch == 1:
            return
        pitch //= 2


def draw(
    colors: Callable[[Tensor], Tensor],
    rows: Tensor,
    columns: Tensor,
    pitch: int,
    tolerance: float,
    chunk_size: int,
    report: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """The image (3, H, W), means of k x k points a pixel: `refine`, a few rows at a time.

    Args:
        rows, columns: Coordinates (H, k), (W, k) of the points of each row and column of pixels.
        pitch: Of the first lattice, in points.
        report: Called after every lattice with the number of pixels that are run, or interpolated for good.

    Other arguments as in `refine`.
    """
    (height, k), width = rows.shape, len(columns)
    # Bands of rows keep the lattices no larger than the image, or than a million points. Without antialiasing, one.
    band = max(1, max(height * width, 2**20) // (width * k * k))
    bands, done = [], 0
    for part in rows.split(min(band, height)):
        values = part
        for lattice in refine(colors, part.flatten(), columns.flatten(), pitch, tolerance, chunk_size):
            report(done + min(part.shape[0] * width, lattice.ran.numel() // (k * k)))
            values = lattice.values  # the last one's are the band
        bands.append(torch.nn.functional.avg_pool2d(values, k) if k > 1 else values)
        done += part.shape[0] * width
    return torch.cat(bands, dim=1) if len(bands) > 1 else bands[0]


def _extend(axis: Tensor, pitch: int) -> Tensor:
    """Coordinates (H,), float32, continued past the border up to a multiple of `pitch`."""
    extra = -(len(axis) - 1) % pitch
    if extra == 0:
        return axis
    first, last = axis[0].item(), axis[-1].item()
    step = (last - first) / (len(axis) - 1)
    beyond = last + step * torch.arange(1, extra + 1, dtype=torch.float64)
    return torch.cat([axis, beyond.to(axis)])


def _unravel(index: Tensor, width: int) -> tuple[Tensor, Tensor]:
    row = index // width
    return row, index - row * width


def _neighbors(index: Tensor, ran: Tensor) -> Tensor:
    """Points of a lattice that were not `ran` (h, w), among the eight around each of `index` (N,)."""
    height, width = ran.shape
    row, column = _unravel(index, width)
    around = torch.arange(-1, 2, device=index.device)
    row = (row[:, None] + around).clamp(0, height - 1)  # (N, 3)
    column = (column[:, None] + around).clamp(0, width - 1)
    near = torch.zeros_like(ran)
    near[row[:, :, None], column[:, None, :]] = True
    return (near & ~ran).flatten().nonzero().squeeze(1)


def _predict(values: Tensor, shape: list[int]) -> tuple[Tensor, Tensor]:
    """The lattice of half the pitch, cut to `shape`: values (3, h, w), the given ones among them, and doubts (h, w)."""
    height, width = values.shape[1:]
    down, doubt_down = _midpoints(values)  # between rows
    across, doubt_across = (part.transpose(-1, -2) for part in _midpoints(values.transpose(1, 2)))  # between columns
    fine = values.new_empty(3, 2 * height - 1, 2 * width - 1)
    fine[:, ::2, ::2] = values
    fine[:, 1::2, ::2] = down
    fine[:, ::2, 1::2] = across
    fine[:, 1::2, 1::2] = _midpoints(down.transpose(1, 2))[0].transpose(1, 2)
    doubt = values.new_zeros(fine.shape[1:])
    doubt[1::2, ::2] = doubt_down
    doubt[::2, 1::2] = doubt_across
    doubt[1::2, 1::2] = torch.maximum(
        torch.maximum(doubt_down[:, 1:], doubt_down[:, :-1]), torch.maximum(doubt_across[1:], doubt_across[:-1])
    )
    return fine[:, : shape[0], : shape[1]].contiguous(), doubt[: shape[0], : shape[1]]


def _midpoints(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values (3, h - 1, w) between the rows of (3, h, w), and the doubt (h - 1, w) in them, the largest of any channel.

    Four-point cubic, with quadratics continued past the border.
    """
    difference = values.diff(dim=1)  # (3, h - 1, w)
    first = 2 * difference[:, :1] - difference[:, 1:2]  # of a row above the first, were the image a quadratic there
    last = 2 * difference[:, -1:] - difference[:, -2:-1]
    padded = torch.cat([first, difference, last], dim=1)  # (3, h + 1, w)
    middle = values[:, :-1] + 0.5 * difference + (padded[:, :-2] - padded[:, 2:]) / 16
    third = difference.diff(n=2, dim=1).abs().amax(dim=0) * DOUBT  # (h - 3, w)
    return middle, torch.cat([third[:1], third, third[-1:]])
