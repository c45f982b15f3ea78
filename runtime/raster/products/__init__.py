"""Products as they come: each recognised, and read window by window in physical units."""

from .find import Products, find_products
from .mosaic import SceneSource

__all__ = ["Products", "SceneSource", "find_products"]
