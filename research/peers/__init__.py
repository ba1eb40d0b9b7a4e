"""Other ways to spend fewer multiply-accumulates on a vision transformer, and ablations of ToFe, in one form.

All share the blocks before the first selection with the dense net and are trained from views of it
(``tofe_edge.training.views``), but for the smaller images, of which all blocks are trained; see
:mod:`research.peers.method`.
"""
