"""``python -m hearthring``."""

from hearthring.cli import main

raise SystemExit(main())
