"""`python -m scheduler.cli`: the same command line, for children of `routet2i up`."""

from scheduler.cli import main

main()
