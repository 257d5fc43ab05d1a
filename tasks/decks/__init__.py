"""How results are shown: escaped tables, samples and charts as inline HTML without any script.

Not a stage: every stage may import this package, and it imports only configs. It owns matplotlib and Flyte's standard
deck renderers.
"""
