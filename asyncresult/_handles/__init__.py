"""Handles: one result, several, groups; and the machinery of waiting for them."""
