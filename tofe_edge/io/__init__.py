"""Reading and writing: files, images, data sets, artifacts, progress."""
