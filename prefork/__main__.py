"""`python -m prefork`."""

import sys

from prefork.cli import main

sys.exit(main())
