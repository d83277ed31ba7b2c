"""`python -m service` is the `baton` command."""

from service.cli.command import main

main()
