# The public names: type checkers read them here, and lazy_exports loads them when they are first asked for.
from ..images import MAX_PHOTO_PIXELS as MAX_PHOTO_PIXELS, PHOTO_FORMATS as PHOTO_FORMATS, load_photo as load_photo
from .inversion import (
    InversionResult as InversionResult,
    estimate_seconds as estimate_seconds,
    invert as invert,
    load_affine_parameters as load_affine_parameters,
    load_w as load_w,
    tune as tune,
)
from .objective import Target as Target
from .optimization import InversionStep as InversionStep
from .settings import STRENGTHS as STRENGTHS, InversionSettings as InversionSettings, TuningSettings as TuningSettings
