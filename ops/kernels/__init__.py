"""Kernels: the fast variants of tasks, beside the plain references that they must agree with."""
