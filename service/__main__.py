"""`python -m service` is the `baton` command."""

from service.cli import main

main()
