"""Images edited through their affine parameters: interpolation, style mixing, zoom and extrapolation, films.

Everything acts on the affine parameters A (B, L, n, 3), so that it works on an inverted image as on a sample:
`pipe.encode(...)` gives A of a sample, `pipe(affine_parameters=A)` draws it, `save_film(draw_frames(...), path)` films
it.
"""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
