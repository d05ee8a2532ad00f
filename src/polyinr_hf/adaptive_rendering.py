"""Adaptive rendering: the network runs where the image has detail; smooth parts are interpolated.

The network is run on a coarse lattice of pixels. Then the pitch is halved, again and again, down to single pixels: each
new lattice point is predicted from its neighbors (four-point cubic, exact for quadratics), and the network is run only
where that prediction is in doubt. Images of a batch go through it side by side, and the network takes points of all of
them at once: on a GPU, launches and waits for the host are those of one image. This file needs torch only; it travels
with modeling_poly_inr.py.
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
    """Every `pitch`-th pixel of images, from the first on; the last row and column may lie past their border.

    values: Colors (B, 3, h, w), float32.
    ran: Where the network was run (B, h, w), bool; elsewhere the color is interpolated.
    num_points: Points that the network was run at so far, those past the border included.
    """

    values: Tensor
    ran: Tensor
    pitch: int
    num_points: int

    def enlarge(self, height: int, width: int) -> Tensor:
        """Previews (B, 3, height, width) in full size."""
        if self.pitch == 1:
            return self.values
        size = [(side - 1) * self.pitch + 1 for side in self.values.shape[2:]]  # pixels from first to last point
        large = torch.nn.functional.interpolate(self.values, size, mode="bilinear", align_corners=True)
        return large[..., :height, :width]


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
    colors: Callable[[Tensor, Tensor], Tensor],
    rows: Tensor,
    columns: Tensor,
    pitch: int,
    tolerance: float,
    chunk_size: int,
    batch_size: int = 1,
) -> Iterator[Lattice]:
    """Yields the lattices of B images, from `pitch` halved down to 1, the images themselves (B, 3, H, W).

    A new point is run where the doubt in its prediction, `DOUBT` times the third difference of the values around it,
    reaches `tolerance / pitch`. Where the prediction turns out to be that wrong, the eight points around it are run,
    those interpolated on coarser lattices among them, and so on until none is wrong: an edge is followed to its end.
    Coarse lattices, where a point is cheap and many pixels follow from it, are thus held to stricter tolerances.

    The host waits for the device once a lattice and once a round of such points: for how many there are.

    Args:
        colors: The network, coordinates (N, 2) and the images (N,) that they lie in, in order -> colors (N, 3).
        rows, columns: Coordinates (H,), (W,) of the pixels, evenly spaced. Of a side too short for cubic interpolation
            every pixel is run.
        pitch: Of the first lattice, a power of two. Details that lie between its points may be missed.
        tolerance: Of a pixel, as a difference of colors; 0 runs the network at every pixel.
        chunk_size: Points run at once.
        batch_size: B.
    """
    height, width = len(rows), len(columns)
    while pitch > 1 and min(height, width) <= 3 * pitch:
        pitch //= 2
    rows, columns = _extend(rows, pitch), _extend(columns, pitch)
    num_points = 0

    values = doubt = None
    ran = torch.zeros(batch_size, 0, 0, dtype=torch.bool, device=rows.device)
    around = torch.arange(-1, 2, device=rows.device)
    while True:
        shape = [-(-(side - 1) // pitch) + 1 for side in (height, width)]
        if values is None:
            values = rows.new_empty(batch_size, 3, *shape)
            ran = ran.new_zeros(batch_size, *shape)
            to_run = ~ran
        else:
            values, doubt = _predict(values, shape)
            ran, coarse = ran.new_zeros(batch_size, *shape), ran
            ran[:, ::2, ::2] = coarse[:, : (shape[0] + 1) // 2, : (shape[1] + 1) // 2]
            to_run = (doubt >= tolerance / pitch) > ran
        color = values.permute(0, 2, 3, 1)  # (B, h, w, 3), a view
        while len(points := to_run.nonzero()):  # (N, 3)
            num_points += len(points)
            ran |= to_run
            near = torch.zeros_like(ran)
            for part in points.split(chunk_size):
                if padding := max(0, MIN_ROWS - len(part)):
                    part = torch.cat([part, part[-1:].expand(padding, 3)])
                image, row, column = part.unbind(1)  # (N,) each
                coordinates = torch.stack([rows[::pitch][row], columns[::pitch][column]], dim=1)  # (N, 2)
                rgb = colors(coordinates, image).float()  # (N, 3)
                if doubt is not None:
                    wrong = (rgb - color[image, row, column]).abs().amax(dim=1) >= tolerance / pitch  # (N,)
                    offsets = around * wrong[:, None]  # (N, 3), to the points around a wrong one; of others, to itself
                    row_near = (row[:, None] + offsets).clamp(0, shape[0] - 1)
                    column_near = (column[:, None] + offsets).clamp(0, shape[1] - 1)
                    near[image[:, None, None], row_near[:, :, None], column_near[:, None]] = True  # at (N, 3, 3)
                color[image, row, column] = rgb
            to_run = near > ran
        yield Lattice(values, ran, pitch, num_points)
        if pitch == 1:
            return
        pitch //= 2


def draw(
    colors: Callable[[Tensor, Tensor], Tensor],
    rows: Tensor,
    columns: Tensor,
    pitch: int,
    tolerance: float,
    chunk_size: int,
    batch_size: int = 1,
    report: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Images (B, 3, H, W), means of k x k points a pixel: `refine`, a few rows at a time.

    Args:
        rows, columns: Coordinates (H, k), (W, k) of the points of each row and column of pixels.
        pitch: Of the first lattice, in points.
        report: Called after every lattice with the number of an image's pixels that are run, or interpolated for good.

    Other arguments as in `refine`.
    """
    (height, k), width = rows.shape, len(columns)
    # Bands of rows keep the lattices no larger than the image, or than a million points. Without antialiasing, one.
    band = max(1, max(height * width, 2**20) // (width * k * k))
    bands, done = [], 0
    for part in rows.split(min(band, height)):
        values = part
        for lattice in refine(colors, part.flatten(), columns.flatten(), pitch, tolerance, chunk_size, batch_size):
            report(done + min(part.shape[0] * width, lattice.ran[0].numel() // (k * k)))
            values = lattice.values  # the last one's are the band
        bands.append(torch.nn.functional.avg_pool2d(values, k) if k > 1 else values)
        done += part.shape[0] * width
    return torch.cat(bands, dim=2) if len(bands) > 1 else bands[0]


def _extend(axis: Tensor, pitch: int) -> Tensor:
    """Coordinates (H,), evenly spaced, continued past the border up to a multiple of `pitch`."""
    extra = -(len(axis) - 1) % pitch
    return torch.cat([axis, 2 * axis[-1:] - axis[-1 - extra : -1].flip(0)]) if extra else axis


def _predict(values: Tensor, shape: list[int]) -> tuple[Tensor, Tensor]:
    """Lattices of half the pitch, cut to `shape`: values (B, 3, h, w), the given ones among them, doubts (B, h, w)."""
    batch, _, height, width = values.shape
    down, doubt_down = _midpoints(values)  # between rows
    across, doubt_across = (part.transpose(-1, -2) for part in _midpoints(values.transpose(2, 3)))  # between columns
    fine = values.new_empty(batch, 3, 2 * height - 1, 2 * width - 1)
    fine[..., ::2, ::2] = values
    fine[..., 1::2, ::2] = down
    fine[..., ::2, 1::2] = across
    fine[..., 1::2, 1::2] = _midpoints(down.transpose(2, 3))[0].transpose(2, 3)
    doubt = values.new_zeros(batch, *fine.shape[2:])
    doubt[:, 1::2, ::2] = doubt_down
    doubt[:, ::2, 1::2] = doubt_across
    doubt[:, 1::2, 1::2] = torch.maximum(
        torch.maximum(doubt_down[..., 1:], doubt_down[..., :-1]),
        torch.maximum(doubt_across[:, 1:], doubt_across[:, :-1]),
    )
    return fine[..., : shape[0], : shape[1]].contiguous(), doubt[:, : shape[0], : shape[1]]


def _midpoints(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values (B, 3, h - 1, w) between the rows of (B, 3, h, w), and the doubt (B, h - 1, w) in them.

    Four-point cubic, with quadratics continued past the border. The doubt is the largest of the three channels.
    """
    difference = values.diff(dim=2)  # (B, 3, h - 1, w)
    first = 2 * difference[:, :, :1] - difference[:, :, 1:2]  # of a row above, were it a quadratic there
    last = 2 * difference[:, :, -1:] - difference[:, :, -2:-1]
    padded = torch.cat([first, difference, last], dim=2)  # (B, 3, h + 1, w)
    middle = values[:, :, :-1] + 0.5 * difference + (padded[:, :, :-2] - padded[:, :, 2:]) / 16
    third = difference.diff(n=2, dim=2).abs().amax(dim=1) * DOUBT  # (B, h - 3, w)
    return middle, torch.cat([third[:, :1], third, third[:, -1:]], dim=1)
