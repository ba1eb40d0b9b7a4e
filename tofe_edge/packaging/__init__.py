"""Bundles for app developers: a model with all that feeds, checks and explains it, in the form that their build takes.

One module a noun: ``bundle`` (files and their names), ``archive`` and ``unpack`` (bytes of zip and tar.gz, and back),
``contents`` (what every bundle holds), ``provenance``, ``licences``, ``place`` (onto the disk), ``check`` (verify one), and a
file a platform, listed in ``registry``.
"""
