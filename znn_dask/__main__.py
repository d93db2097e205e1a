"""``python -m znn_dask`` is ``znn-dask``."""

import sys

from znn_dask.cli import main

if __name__ == "__main__":
    sys.exit(main())
