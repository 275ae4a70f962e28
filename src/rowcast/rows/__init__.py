"""The layout of a model as rows of one flat float32 vector, reductions over rows, and their selection."""

from rowcast.rows.layout import Layout, TensorSpec
from rowcast.rows.select import Selection, select

__all__ = ["Layout", "Selection", "TensorSpec", "select"]
