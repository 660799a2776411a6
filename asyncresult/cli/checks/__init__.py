"""What ``doctor`` looks at: one module for each kind of thing.

Each check gives findings: how bad it is, what was seen, and what to do about it. A check that the server does not
allow says so, and the others go on.
"""
