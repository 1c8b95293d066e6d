"""Task Bench in Python: how small tasks may become before a system's overhead is half the time.

Patterns, kernel and the metric METG(50 %) are those of Slaughter et al., "Task Bench: a
parameterized benchmark for evaluating parallel runtime performance" (SC 2020); the code is our own.
"""
