"""Tools of the tests: servers, a proxy that breaks things, a leak detector, Celery workers.

They know nothing of asyncresult, and only ``leaks`` knows pytest, so that benchmarks and demos can use them too.
"""
