"""``python -m minirestore``."""

from minirestore.cli import main

raise SystemExit(main())
