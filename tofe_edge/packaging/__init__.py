"""Bundles for app developers: a model with all that feeds, checks and explains it, in the form that their build takes.

``bundle`` (files and their names), ``contents`` (what every bundle holds), ``texts`` (templates), ``archive`` (zip and tar.gz),
``provenance`` and ``licences``, ``place`` (onto the disk), ``check`` (verify a bundle), ``platform`` and one module per platform.
"""
