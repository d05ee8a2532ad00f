"""Poly-INR for the Hugging Face ecosystem: images as polynomials of their pixel coordinates."""

from .modeling_poly_inr import NAMED_SIZES, PolyINRGenerator
from .pipeline_poly_inr import PolyINRPipeline

__version__ = "0.1.0"
__all__ = ["NAMED_SIZES", "PolyINRGenerator", "PolyINRPipeline"]
