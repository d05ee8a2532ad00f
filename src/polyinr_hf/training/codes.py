"""Few pictures in little time: a w for each picture, learned on points, then the mapping network that leads to them.

Generative latent optimization (Bojanowski et al., Optimizing the Latent Space of Generative Networks, 2018) where a
picture is a function: any of its points can be learned at any resolution for the price of that point, so that each
step draws a few dozen random points of hundreds of pictures, where whole images of that price would be four. Three
phases share a run's time:

1. codes: each picture has a w of its own, its code, learned together with affine and synthesis levels.
2. mapping: the mapping network learns to lead from random latents to all codes equally and, between cells of latents
   ([`LatentCells`]), to what lies between two of them.
3. details: all weights learn on points of what it leads to, and if asked on crops, by the features of a pretrained
   network, which ask for edges and texture where squared error asks for the mean of what might be there.

What comes out redraws and blends what it was shown. Adversarial training can go on from it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.loader import TrainingOrder
from ..modeling_poly_inr import PolyINRGenerator
from ..optimizers import Muon, half_cosine
from .matching import FeatureMatching, LatentCells
from .points import colors_at, edge_pixels, random_points

PICTURES_PER_STEP = 512  # all, where there are fewer: 200 x 64 points reach in a minute what 16 x 1,024 never did
POINTS_PER_STEP = 12_800
# Rates of steps that all pictures are in, tuned on 200 icons at 64 px from the bundled weights (docs/training.md has a
# table); in proportion where a step has a part of them: with these, a sixth of 3,093 loses what the weights knew.
LR_WEIGHTS, LR_MATRICES, LR_CODES = 1e-3, 3e-3, 0.1
BETAS_WEIGHTS, BETAS_CODES = (0.9, 0.99), (0.5, 0.9)  # a code's own gradient is exact but for the choice of points
WARM_UP = 0.02  # of a phase, in which rates rise: Adam's first steps are as long as any
# Latents of the source that codes start from, so many or four a picture, compared as 8 x 8 pixels. Where the source
# knows these pictures, nearly every one is found.
CANDIDATES, CANDIDATE_SIDE = 4096, 8
# Where each phase begins, as a share of the time. The mapping network gains little after ten minutes.
PHASES = {"codes": 0.0, "mapping": 0.4, "details": 0.76}
MOST_MAPPING_MINUTES = 10.0
# The mapping network's phase is least squares of w alone, which costs no points. In bfloat16 as much is left after as
# many updates (0.354 of the codes' variance after 600), in 0.6 of a CPU's time.
REGRESSIONS_PER_STEP, REGRESSION_BATCH = 32, 256
# Relative to the deviation of a weight tensor; 0.03 leaves 0.18 of the codes' variance after 1,500 updates, not 0.15.
# The lower one is for a mapping network that a run keeps, whose w are near (not tuned).
LR_MAPPING, LR_KEPT_MAPPING = 0.06, 0.03
# The last phase: latents sampled for each picture of a step, of which half are taken, those that stand for one picture
# first; the rates of all weights and of the mapping network, and how long they rise. 130 steps of it on 200 pictures,
# after ten minutes: 24.6 dB; with 3e-4 and 0.06 23.8, and without the rise the mapping network diverges.
LATENTS_PER_PICTURE, LR_JOINT, LR_JOINT_MAPPING, WARM_UP_JOINT = 2, 1e-4, 0.03, 0.05
# Its crops: of half as many points a side as a picture has pixels, up to so many, at every pixel, every second, third
# and so on; of as many pictures as make about as many points as all others.
MOST_CROP_POINTS = 32
PURE = 0.9  # share of one picture in what a latent stands for, above which its points are that picture's
SEEDS_APART = 2_000_003  # steps that a seed may have before it meets the next one's random numbers


class Codes(nn.Module):
    """A w for each picture (N, w_dim), and Adam's moments of it: only those that a step saw are moved.

    `torch.optim.SparseAdam` counts steps for all rows together; here each row's bias correction is its own.
    """

    weight: Tensor
    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, start: Tensor):
        super().__init__()
        self.register_buffer("weight", start.clone())
        self.register_buffer("mean", torch.zeros_like(start))
        self.register_buffer("square", torch.zeros_like(start))
        self.register_buffer("count", torch.zeros(len(start), 1, device=start.device))

    @torch.no_grad()
    def update(self, rows: Tensor, gradient: Tensor, lr: float) -> None:
        """One step of Adam (Kingma and Ba 2015) of the codes `rows` (B,), by their gradient (B, w_dim)."""
        beta_1, beta_2 = BETAS_CODES
        count = self.count[rows] + 1
        mean = torch.lerp(gradient, self.mean[rows], beta_1)
        square = torch.lerp(gradient.square(), self.square[rows], beta_2)
        step = mean / (1 - beta_1**count) / ((square / (1 - beta_2**count)).sqrt() + 1e-8)
        self.weight[rows] -= lr * step
        self.count[rows], self.mean[rows], self.square[rows] = count, mean, square


@dataclass
class Shard:
    """Which part of each step a process does: gradients of all are summed, so that the weights stay the same in all."""

    index: int = 0
    count: int = 1
    reduce: Callable[[Tensor], Any] = lambda tensor: tensor  # sum over processes

    def part(self, whole: Tensor) -> Tensor:
        """This process's rows, perhaps none."""
        return whole.tensor_split(self.count)[self.index]

    def sum_gradients(self, parameters: list[nn.Parameter], *others: Tensor) -> None:
        """Sums gradients, and `others`, over all processes, in one message; in place."""
        if self.count == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        tensors = [*(parameter.grad for parameter in parameters), *others]
        flat = self.reduce(torch.cat([tensor.flatten() for tensor in tensors]))
        for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))


class PicturesStep:
    """The steps of all phases; every random number of a step comes from the seed and the step.

    Args:
        generator: with the mapping network that is to be taught.
        pictures: uint8 (N, 3, S, S), on the generator's device, or in memory (or a file mapped into it).
        labels: (N,) classes, None without.
        start: codes to begin with, (N, w_dim).
        seed: of the run.
        compile_synthesis: by torch.compile.
        autocast: context of the products.
        shard: of several processes.
        features: what compares crops in the last phase; None: points alone.
        features_weight: of their squared distance, beside the errors of colors.
        phases: where each begins, as a share of the run.
        by_order: whether latents stand for pictures in their order ([`LatentCells.order`]), not by likeness of codes.
    """

    def __init__(
        self,
        generator: PolyINRGenerator,
        pictures: Tensor,
        labels: Tensor | None,
        start: Tensor,
        seed: int = 0,
        compile_synthesis: bool = False,
        autocast: Callable = torch.enable_grad,
        shard: Shard | None = None,
        features: FeatureMatching | None = None,
        features_weight: float = 0.1,
        phases: dict[str, float] = PHASES,
        by_order: bool = False,
    ):
        self.phases, self.by_order = phases, by_order
        self.generator, self.pictures, self.labels, self.seed = generator, pictures, labels, seed
        self.autocast, self.shard, self.device = autocast, shard or Shard(), generator.device
        self.features, self.features_weight = features, features_weight
        self.near_edges = edge_pixels(pictures)  # (N, S, S)
        self.codes = Codes(start)
        self.cells = LatentCells(len(pictures), generator.config.z_dim, labels).to(self.device)
        self.per_step = min(len(pictures), PICTURES_PER_STEP)
        self.points = max(1, POINTS_PER_STEP // self.per_step)  # of each picture
        self.crop_side = min(MOST_CROP_POINTS, max(1, pictures.shape[-1] // 2))
        if features is not None:
            rows = torch.linspace(0, len(pictures) - 1, min(len(pictures), PICTURES_PER_STEP)).round().long()
            crops = self._sample_crops(len(rows), torch.Generator().manual_seed(seed))
            with autocast():
                features.standardize(
                    _as_images(colors_at(pictures, part, points, self.device))
                    for part, points in zip(rows.split(64), crops.split(64), strict=True)
                )
        self._order = TrainingOrder(len(pictures), seed, mirror=False)
        self._synthesize = generator.synthesize
        if compile_synthesis:
            self._synthesize = torch.compile(generator.synthesize, dynamic=False)
        self.matrices: list[Any] = [level.weight for level in generator.synthesis_levels[1:]]
        mapping = {id(parameter) for parameter in generator.mapping.parameters()}
        taken = mapping | {id(parameter) for parameter in self.matrices}
        self.others = [parameter for parameter in generator.parameters() if id(parameter) not in taken]
        self.optimizers = {
            "weights": torch.optim.Adam(self.others, betas=BETAS_WEIGHTS, fused=self.device.type in ("cpu", "cuda")),
            "matrices": Muon(self.matrices),
            "mapping": torch.optim.Adam(list(self._mapping_groups()), betas=BETAS_WEIGHTS),
        }

    def _mapping_groups(self) -> Iterator[dict]:
        """A group for each layer, with the size of its numbers: equalized layers are scaled where they are used."""
        for module in self.generator.mapping.modules():
            if (weight := getattr(module, "weight", None)) is not None:
                yield {"params": list(module.parameters(recurse=False)), "size": weight.detach().std().item()}

    @property
    def modules(self) -> list:
        """All that a checkpoint holds."""
        return [self.generator, self.codes, self.cells, *self.optimizers.values()]

    def take(self, step: int, done: float) -> Tensor:
        """A step of the phase that it is time for, after `done` of the run, 0 to 1; returns this process's loss."""
        phase = self.phase_of(done)
        begin = self.phases[phase]
        end = min([share for share in self.phases.values() if share > begin], default=1.0)
        return getattr(self, f"{phase}_step")(step, (done - begin) / (end - begin))

    def phase_of(self, done: float) -> str:
        """The phase that the run is in after `done` of it, 0 to 1."""
        return [name for name, begin in self.phases.items() if begin <= done][-1]

    # -- first phase --------------------------------------------------------------------------------------------------
    def codes_step(self, step: int, progress: float) -> Tensor:
        """One step of codes and weights on points of the next pictures; `progress` of the phase, 0 to 1.

        Returns the loss, summed over this process's part: mean absolute and squared error of a color.
        """
        random = self._random(step)
        epoch, batch = divmod(step, len(self.pictures) // self.per_step)  # a new order drops others that are left over
        start = epoch * len(self.pictures) + batch * self.per_step
        rows = torch.tensor([self._order[position][0] for position in range(start, start + self.per_step)])
        points = random_points(self.near_edges, rows, self.points, random)  # (B, P, 2)
        mine = self.shard.part(rows).to(self.device)
        w = self.codes.weight[mine].requires_grad_()
        loss = self._points_loss(w, mine, self.shard.part(points))
        if len(mine):
            loss.backward()
        gradient = torch.zeros(len(rows), w.shape[1], device=self.device)
        self.shard.part(gradient).copy_(torch.zeros_like(w) if w.grad is None else w.grad)
        self.shard.sum_gradients([*self.others, *self.matrices], gradient)
        factor = warm_half_cosine(progress) * self.per_step / len(self.pictures)
        self.codes.update(rows.to(self.device), gradient, LR_CODES * factor)
        self._apply("weights", LR_WEIGHTS * factor)
        self._apply("matrices", LR_MATRICES * factor)
        return loss.detach()

    def _points_loss(self, w: Tensor, pictures: Tensor, points: Tensor) -> Tensor:
        """Mean absolute and squared error of the colors that w (B, w_dim) draw at points (B, P, 2) of pictures (B,).

        Of each picture's the logarithm of 1 more: between codes that are far apart a polynomial of the tenth order can
        draw colors of thousands, and such a picture's gradient would be all that a step learns from. The mean is over
        the whole step's pictures: parts of several processes add up to it.
        """
        error = self._colors(w, points).float() - colors_at(self.pictures, pictures, points, self.device)  # (B, P, 3)
        return (error.abs() + error.square()).mean(dim=(1, 2)).log1p().sum() / self.per_step

    def _colors(self, w: Tensor, points: Tensor) -> Tensor:
        """What w (B, w_dim) draw at points (B, P, 2), (B, P, 3)."""
        with self.autocast():
            A = self.generator.affine(w.unsqueeze(1).expand(-1, self.generator.config.num_levels, -1))  # (B, L, n, 3)
            return self._synthesize(A, points.to(self.device))

    def _apply(self, name: str, lr: float) -> None:
        optimizer = self.optimizers[name]
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("size", 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    # -- second phase -------------------------------------------------------------------------------------------------
    def begin_mapping(self) -> None:
        """Cuts the latents into cells, and sets the mean w of classes."""
        if self.by_order:
            self.cells.order()
        else:
            self.cells.fit(self.codes.weight, self.seed)
        labels = torch.zeros(len(self.pictures), dtype=torch.long) if self.labels is None else self.labels
        means = torch.zeros_like(self.generator.w_mean).index_add_(0, labels.to(self.device), self.codes.weight)
        counts = torch.bincount(labels, minlength=len(means)).clamp(min=1).unsqueeze(1).to(self.device)
        self.generator.w_mean.copy_(means / counts)

    def mapping_step(self, step: int, progress: float) -> Tensor:
        """A number of updates of the mapping network, by least squares of w; `progress` of the phase, 0 to 1.

        Returns the squared error of w, as a share of the codes' variance, of this process's part.
        """
        error = torch.zeros(())
        for update in range(REGRESSIONS_PER_STEP):
            error, *_ = self._regression(REGRESSION_BATCH, step, update, self.autocast)
            error.backward()
            self.shard.sum_gradients(list(self.generator.mapping.parameters()))
            self._apply("mapping", (LR_KEPT_MAPPING if self.by_order else LR_MAPPING) * half_cosine(0.6 * progress))
        return error.detach()

    # -- third phase --------------------------------------------------------------------------------------------------
    def details_step(self, step: int, progress: float) -> Tensor:
        """One step of all weights on what random latents lead to; `progress` of the phase, 0 to 1.

        Returns the loss of this process's part: of w, as in the phase before, of points and of crops.
        """
        error, z, labels, shares = self._regression(LATENTS_PER_PICTURE * self.per_step, step, autocast=self.autocast)
        top, random = shares.max(dim=1), self._random(step, 1)
        chosen = (top.values < PURE).float().argsort(stable=True)[: self.per_step]  # the first of one picture each
        points = random_points(self.near_edges, top.indices[chosen], self.points, random)
        mine = self.shard.part(chosen)
        with self.autocast():
            w = self._map(z[mine], None if labels is None else labels[mine])
        loss = error + self._points_loss(w, top.indices[mine], self.shard.part(points))
        if self.features is not None:
            crops = chosen[: max(1, POINTS_PER_STEP // self.crop_side**2)]
            mine, pixels = self.shard.part(crops), self.shard.part(self._sample_crops(len(crops), random))
            with self.autocast():
                w = self._map(z[mine], None if labels is None else labels[mine])
            loss = loss + self._crops_loss(self.features, w, top.indices[mine], pixels) / len(crops)
        loss.backward()
        self.shard.sum_gradients([*self.generator.mapping.parameters(), *self.others, *self.matrices])
        rise = min(1.0, progress / WARM_UP_JOINT + 0.01)
        self._apply("mapping", LR_JOINT_MAPPING * rise * half_cosine(0.6 + 0.4 * progress))
        factor = rise * half_cosine(progress) * self.per_step / len(self.pictures)
        self._apply("weights", LR_JOINT * factor)
        self._apply("matrices", LR_JOINT * factor)
        return loss.detach()

    def _sample_crops(self, number: int, random: torch.Generator) -> Tensor:
        """Points (B, C * C, 2) of crops at random places, each at every pixel or every few, up to the whole picture."""
        side, crop = self.pictures.shape[-1], torch.arange(self.crop_side)
        pitch = torch.randint(1, (side - 1) // max(self.crop_side - 1, 1) + 1, (number, 1, 1), generator=random)
        free = side - 1 - pitch * (self.crop_side - 1)  # pixels that a crop can be moved by
        corners = (torch.rand(number, 1, 2, generator=random) * (free + 1)).long()
        return (corners + pitch * torch.cartesian_prod(crop, crop)) / max(side - 1, 1)

    def _crops_loss(self, features: FeatureMatching, w: Tensor, pictures: Tensor, points: Tensor) -> Tensor:
        """Squared distance of crops that w (B, w_dim) draw to those of pictures (B,), in all, by `features`.

        Of each crop's the logarithm of 1 more, as of points.
        """
        if not len(w):
            return torch.zeros((), device=self.device)
        with self.autocast():
            drawn = _as_images(self._colors(w, points))
            real = _as_images(colors_at(self.pictures, pictures, points, self.device))
            return self.features_weight * features.distances(drawn, real).log1p().sum()

    def _regression(
        self, number: int, step: int, update: int = 0, autocast: Callable = torch.enable_grad
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Squared error of w for random latents, of this process's part; then all latents, classes, and shares."""
        z, labels = self._draw_latents(number, step, update)
        shares = self.cells.shares(z, labels)  # (B, N)
        part = self.shard.part(torch.arange(number, device=self.device))
        with autocast():
            w = self._map(z[part], None if labels is None else labels[part])
        variance = self.codes.weight.var(dim=0, correction=0).mean().clamp(min=1e-12)
        error = (w - shares[part] @ self.codes.weight).square().sum() / (number * w.shape[1] * variance)
        return error, z, labels, shares

    def _random(self, step: int, use: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed(64 * (self.seed * SEEDS_APART + step) + use)

    def _draw_latents(self, number: int, step: int, update: int) -> tuple[Tensor, Tensor | None]:
        """Latents (B, z_dim), and classes (B,) as often as pictures have them."""
        random = self._random(step, 2 + update)
        z = torch.randn(number, self.generator.config.z_dim, generator=random).to(self.device)
        if self.labels is None:
            return z, None
        return z, self.labels[torch.randint(len(self.labels), (number,), generator=random)].to(self.device)

    def _map(self, z: Tensor, labels: Tensor | None) -> Tensor:
        return self.generator.mapping(z, labels).float()

    # -- what has been learned ----------------------------------------------------------------------------------------
    @torch.no_grad()
    def latents_of(self, pictures: Tensor, tries: int = 65_536) -> Tensor:
        """A latent (z_dim,) for each of the pictures (B,), the purest of random ones within its cell, (B, z_dim)."""
        z = torch.randn(tries, self.generator.config.z_dim, generator=torch.Generator().manual_seed(self.seed))
        best = self.cells.anchors[pictures].clone()
        for row, picture in enumerate(pictures.tolist()):
            labels = None if self.labels is None else self.labels[picture].expand(256).to(self.device)
            for part in z.split(256):
                shares = self.cells.shares(part.to(self.device), labels)[:, picture]
                if shares.max() > PURE:
                    best[row] = part[shares.argmax()]
                    break
        return best

    @torch.no_grad()
    def psnr(self, through_mapping: bool, pictures: int = 512, points: int = 256) -> float:
        """Mean PSNR in dB of what codes, or the mapping network, give, at random pixels of evenly chosen pictures."""
        rows = torch.linspace(0, len(self.pictures) - 1, min(pictures, len(self.pictures))).round().long()
        side = self.pictures.shape[-1]
        pixels = torch.randint(side**2, (len(rows), points), generator=torch.Generator().manual_seed(0))
        where = torch.stack([pixels // side, pixels % side], dim=-1) / max(side - 1, 1)
        found = []
        for part, those in zip(rows.split(64), where.split(64), strict=True):
            w = self.w_of(part, through_mapping)
            with self.autocast():
                colors = self.generator.synthesize(self.generator.affine(w), those.to(self.device)).float()
            error = colors.clamp(-1, 1) - colors_at(self.pictures, part, those, self.device)
            found.append(-10 * (error.square().mean(dim=(1, 2)) / 4).clamp(min=1e-10).log10())
        return torch.cat(found).mean().item()

    @torch.no_grad()
    def w_of(self, pictures: Tensor, through_mapping: bool) -> Tensor:
        """w (B, L, w_dim) of pictures (B,): their codes, or what latents in their cells are mapped to."""
        w = self.codes.weight[pictures.to(self.device)]
        if through_mapping:
            labels = None if self.labels is None else self.labels[pictures].to(self.device)
            w = self._map(self.latents_of(pictures), labels)
        return w.unsqueeze(1).repeat(1, self.generator.config.num_levels, 1)


def phases_of(minutes: float | None) -> dict[str, float]:
    """Where each phase of a run of so many minutes begins, as a share of it: of one that counts steps, as `PHASES`."""
    codes, details = PHASES["mapping"], 1 - PHASES["details"]
    mapping = min(1 - codes - details, MOST_MAPPING_MINUTES / (minutes or MOST_MAPPING_MINUTES))
    codes *= (1 - mapping) / (codes + details)
    return {"codes": 0.0, "mapping": codes, "details": codes + mapping}


def _as_images(colors: Tensor) -> Tensor:
    """Colors (B, C * C, 3), row by row, as images (B, 3, C, C)."""
    return colors.transpose(1, 2).unflatten(2, (math.isqrt(colors.shape[1]),) * 2)


def warm_half_cosine(progress: float) -> float:
    """Half a cosine from 1 to 0, after a rise from 0 in the first 2 %."""
    return half_cosine(progress) * min(1.0, progress / WARM_UP + 0.01)


@torch.no_grad()
def first_codes(source: PolyINRGenerator, pictures: Tensor, seed: int, candidates: int | None = None) -> Tensor:
    """Codes to start from, (N, w_dim): for each picture, of many random w of `source`, the one that looks most like it.

    `pictures` are uint8 (N, 3, S, S); images are compared at 8 x 8 pixels.
    """
    candidates = candidates or max(CANDIDATES, 4 * len(pictures))
    random, device = torch.Generator().manual_seed(seed), source.device
    z = torch.randn(candidates, source.config.z_dim, generator=random).to(device)
    labels = None
    if source.config.num_classes is not None:
        labels = torch.randint(source.config.num_classes, (candidates,), generator=random).to(device)
    w = source.mapping(z, labels)  # (K, w_dim)
    centers = (torch.arange(CANDIDATE_SIDE, device=device) + 0.5) / CANDIDATE_SIDE
    points = torch.cartesian_prod(centers, centers)  # (64, 2)
    drawn = [
        source.synthesize(source.affine(part.unsqueeze(1).repeat(1, source.config.num_levels, 1)), points).clamp(-1, 1)
        for part in w.split(64)
    ]
    drawn = torch.cat(drawn).flatten(1)  # (K, 64 * 3)
    nearest = []
    for part in pictures.split(64):
        small = F.interpolate(part.to(device).float() / 127.5 - 1, size=(CANDIDATE_SIDE,) * 2, mode="area")
        nearest.append(torch.cdist(small.flatten(2).transpose(1, 2).flatten(1), drawn).argmin(dim=1))
    return w[torch.cat(nearest)]
