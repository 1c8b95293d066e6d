"""The profiler: what ran when and where, what waited for what, and what the host did meanwhile.

``record`` is what a profile is made of. ``profiler`` takes it down while a program runs, and
``executor`` tells it of each operation. ``clock`` puts several ranks on one clock, ``timeline``
writes and reads a profile as a file for Perfetto, and ``summary`` says what it shows.
"""
