"""A space becomes a plan: its variants are listed, brought to one budget, priced and named by their content, before anything runs."""
