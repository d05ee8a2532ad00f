# The public names: type checkers read them here, and lazy_exports loads them when they are first asked for.
from .commands import BUNDLED_MODEL as BUNDLED_MODEL
from .modeling_poly_inr import NAMED_SIZES as NAMED_SIZES, PolyINRGenerator as PolyINRGenerator
from .pipeline_poly_inr import PolyINRPipeline as PolyINRPipeline

__version__: str
