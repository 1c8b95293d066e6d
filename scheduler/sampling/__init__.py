"""How the next token is picked from logits: parameters, and what they make of a row."""
