"""Links, the cost of every cut, and the choice among them."""
