"""Models: operator graphs, YAML definitions, the compiler to task programs, weights, tokenizers."""
