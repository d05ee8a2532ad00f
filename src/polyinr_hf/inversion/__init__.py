"""An image -> its affine parameters (section 4.2 of the paper), and, by tuning, weights fitted to it."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".estimate": ("estimate_seconds",),
        ".inversion": ("invert",),
        ".optimization": ("InversionStep",),
        ".result": ("InversionResult", "load_affine_parameters"),
        ".settings": ("STRENGTHS", "InversionSettings", "TuningSettings"),
        ".target": ("Target",),
        ".tuning": ("tune",),
        "..images": ("MAX_PHOTO_PIXELS", "PHOTO_FORMATS", "load_photo"),
    },
    extra="eval",
)
