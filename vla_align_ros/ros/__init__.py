"""The nodes: wiring only. `process` runs them, `lifecycle` keeps them alive, `parameters` declares what `params.py`
says.
"""
