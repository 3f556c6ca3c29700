"""`python -m edgecut`."""

from .cli import main

main()
