            ready.classify(Photograph.read(contentResolver, image)).joinToString("\n") {
                "%.1f %%  %s".format(100 * it.probability, it.label)
            }
