"""``python -m copgen_edge.runtime.commands``: the command line where its script is not on the path."""

from . import main

main(prog_name="copgen-edge")
