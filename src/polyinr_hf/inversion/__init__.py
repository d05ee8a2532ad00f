"""An image -> its affine parameters, and the weights fitted to it as well (section 4.3 of the paper)."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".inversion": ("invert",),
        ".result": ("InversionResult", "load_affine_parameters"),
        ".target": ("Target",),
        ".tuning": ("tune",),
        "..images": ("MAX_PHOTO_PIXELS", "PHOTO_FORMATS", "load_photo"),
    },
    extra="eval",
)
