"""Iterations whose data stay in tables on the device: nobody waits for the host.

Every running request has a *lane*, a row of each table. An iteration is then a fixed list of
launches, which a GPU replays as one CUDA graph.
"""
