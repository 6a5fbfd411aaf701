"""`python -m prefork`, which leaves the modules of the current directory to the workers."""

import sys

if __spec__ is not None and not sys.flags.safe_path:
    del sys.path[0]  # Python has put the current directory there, in front of its own modules

from prefork.cli import main

sys.exit(main())
