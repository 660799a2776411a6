"""Integrations with other packages. Each needs the package that it is for; the core imports none of them."""
