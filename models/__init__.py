"""Reading a model, its layer graph, its legal cuts and the two halves of a cut; benchmark networks and data."""
