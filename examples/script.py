"""Wait for tasks: ``pip install asyncresult``, then ``python script.py ID ID …``.

Prints each as it ends. The exit status is 1 if any failed, 2 if any did not end in time.
"""

import os
import sys

from asyncresult import ResultTimeout
from asyncresult.sync import AsyncResult, ResultSet, connect


def main(ids: list[str], seconds: float) -> int:
    status = 0
    with connect(os.environ.get("REDIS_URL", "redis://localhost:6379/0")):
        results = ResultSet([AsyncResult(id) for id in ids])
        try:
            for result in results.as_completed(timeout=seconds):
                if result.successful():
                    print(result.id, result.result)
                else:
                    print(result.id, f"{type(result.result).__name__}: {result.result}")
                    status = 1
        except ResultTimeout:
            missing = [result.id for result in results if not result.ready()]
            print("not ended:", *missing, file=sys.stderr)
            return 2
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], float(os.environ.get("SECONDS", "60"))))
