"""Doors to other packages. Each needs what it opens; the core imports none of them."""
