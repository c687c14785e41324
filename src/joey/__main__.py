"""`python3 -m joey`: the same command line as the `joey` launcher."""

import sys

from joey.runtime.cli import main

sys.exit(main(sys.argv[1:]))
