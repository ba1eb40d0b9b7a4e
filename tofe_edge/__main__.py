"""``python -m tofe_edge``: the command line where its script is not on the path."""

from tofe_edge.cli import main

raise SystemExit(main())
