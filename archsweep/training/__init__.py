"""A config becomes a trained GPT-2: text to tokens, tokens to batches, batches to a stack of replicas and its losses."""
