"""`python -m remote_mi` runs the `remote-mi` command."""

from __future__ import annotations

from remote_mi.cli.main import main

main()
