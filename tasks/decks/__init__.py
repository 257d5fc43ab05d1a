"""How results are shown: escaped tables, samples and charts as inline HTML without any script.

A shared room: every stage may import it. No other room imports matplotlib or Flyte's standard Deck renderers.
"""
