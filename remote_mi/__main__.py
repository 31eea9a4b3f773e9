"""`python -m remote_mi` is `remote-mi`."""

from __future__ import annotations

from remote_mi.cli.main import main

main()
