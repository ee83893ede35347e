"""`python -m unimat_search` is the command."""

from unimat_search.cli import main

main()
