"""One module per target; :mod:`tofe_edge.io.targets` lists them."""
