            val labels = emptyList<String>() // of classes, which the model does not tell
