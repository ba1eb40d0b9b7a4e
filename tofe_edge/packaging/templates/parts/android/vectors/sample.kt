            ready.@CALL@(Photograph.read(contentResolver, image)).take(8).joinToString(" ") { "%.4f".format(it) }
