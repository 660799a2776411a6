"""For templates: ``{% load asyncresult %}``."""
