"""Collective boost-tuning: several SSMs that together cover more of an LLM's output.

Source: Miao et al., SpecInfer, ASPLOS 2024, section 3. The first SSM learns to continue prompts as
the LLM does; the prompts whose continuation it reproduces are taken out; the next one learns from
the rest; and so on. At serving, their token trees are merged.
"""
