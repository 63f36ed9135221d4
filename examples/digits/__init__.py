"""A digit detector, trained with losses from a server and again with local ones."""
