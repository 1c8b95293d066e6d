"""How fast this is on the machine at hand, held against what the machine could do.

``specinfer bench`` is its command line. Every figure is measured in one run: steps, attention and
texts, the speeds of memory and products that bound them, and whatever they are compared with.
"""
