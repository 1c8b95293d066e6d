"""From one row of logits to the probabilities that the next token is drawn from."""
