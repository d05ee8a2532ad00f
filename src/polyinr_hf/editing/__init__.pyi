# The public names: type checkers read them here, and lazy_exports loads them when they are first asked for.
from .extents import (
    Extent as Extent,
    detail as detail,
    extrapolate as extrapolate,
    interpolate_extents as interpolate_extents,
)
from .films import (
    FILM_SUFFIXES as FILM_SUFFIXES,
    check_film as check_film,
    draw_frames as draw_frames,
    save_film as save_film,
    tile_films as tile_films,
)
from .interpolation import EASINGS as EASINGS, SPACES as SPACES, interpolate as interpolate, walk as walk
from .levels import (
    LEVEL_GROUPS as LEVEL_GROUPS,
    colorize as colorize,
    heat_maps as heat_maps,
    level_figure as level_figure,
    level_groups as level_groups,
    mix_levels as mix_levels,
    prefix_images as prefix_images,
    style_mixing_grid as style_mixing_grid,
)
from .seeds import (
    SEED_SOURCES as SEED_SOURCES,
    designs as designs,
    draw_latents as draw_latents,
    encode_seeds as encode_seeds,
    numpy_class_ids as numpy_class_ids,
    numpy_latents as numpy_latents,
    truncate as truncate,
    w_centroids as w_centroids,
)
