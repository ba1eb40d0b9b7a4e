"""Reports as single HTML pages that load nothing: data in, text out."""
